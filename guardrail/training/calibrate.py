"""Fitting calibrations on held-out units: what a score says should be the share of such texts that do violate.

Which method to take is decided by scores of units that its fit has not seen: isotonic steps follow the rows they were fitted on closely.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from guardrail.calibration import NEAREST, Calibration, Isotonic, Platt, Temperature
from guardrail.errors import GuardrailError
from guardrail.units import folds as deal

FOLDS = 5
_GOLDEN = (5**0.5 - 1) / 2

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A text that the classifier was not trained on: its score, its label (0 or 1), and the unit whose rows leak into each other."""

    score: float
    label: int
    unit: str


@dataclass(frozen=True, slots=True)
class Fit:
    """A calibration fitted on all rows. `log_loss` and `brier` are of scores calibrated without their own unit, `before` of plain ones."""

    calibration: Calibration
    rows: int
    units: int
    log_loss: float
    brier: float
    log_loss_before: float
    brier_before: float


def calibrate(rows: Sequence[HeldOut], method: str | None = None, *, folds: int = FOLDS) -> Fit:
    """Fit one method, or that with the least log loss on units it has not seen. Deterministic.

    Raises GuardrailError when the rows cannot tell: a label is missing or in one unit only, or scores fall as labels rise.
    """
    _check(rows)
    tried = [_tried(rows, each, folds) for each in ([method] if method else FITTERS)]
    return min(tried, key=lambda fit: fit.log_loss)


def fit(method: str, rows: Sequence[HeldOut]) -> Calibration:
    """A calibration of one method, fitted on all these rows. Raises GuardrailError for an unknown method."""
    if method not in FITTERS:
        raise GuardrailError(f"there is no calibration method {method!r}; choose one of {', '.join(FITTERS)}")
    return FITTERS[method](np.array([row.score for row in rows]), _targets(rows))


def cross_fitted(method: str, rows: Sequence[HeldOut], *, folds: int = FOLDS) -> Floats:
    """Each row's score, calibrated by a map that was fitted without the row's fold, hence without its unit."""
    chosen = np.array(deal([row.unit for row in rows], [row.label for row in rows], folds))
    found = np.empty(len(rows))
    for fold in sorted(set(chosen.tolist())):
        map_ = fit(method, [row for row, of in zip(rows, chosen, strict=True) if of != fold])
        for place in np.flatnonzero(chosen == fold):
            found[place] = map_.apply(rows[place].score)
    return found


def _tried(rows: Sequence[HeldOut], method: str, folds: int) -> Fit:
    before, after = np.array([row.score for row in rows]), cross_fitted(method, rows, folds=folds)
    labels = np.array([row.label for row in rows], float)
    return Fit(
        fit(method, rows),
        len(rows),
        len({row.unit for row in rows}),
        log_loss=_log_loss(after, labels),
        brier=float(np.mean((after - labels) ** 2)),
        log_loss_before=_log_loss(before, labels),
        brier_before=float(np.mean((before - labels) ** 2)),
    )


def _check(rows: Sequence[HeldOut]) -> None:
    for label in (0, 1):
        units = {row.unit for row in rows if row.label == label}
        if len(units) < 2:
            raise GuardrailError(f"calibration needs held-out texts of two units at least with each label; label {label} has {len(units)}")


def _targets(rows: Sequence[HeldOut]) -> Floats:
    """Labels drawn a little towards each other, as Platt (1999) has it: no fit becomes certain of what it saw few of."""
    labels = np.array([row.label for row in rows], float)
    positives = labels.sum()
    return np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2))


def _temperature(scores: Floats, targets: Floats) -> Temperature:
    """Golden-section search: the loss has one minimum over the logarithm of the temperature."""
    odds = _log_odds(scores)
    low, high = -4.0, 4.0
    while high - low > 1e-7:
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if _logistic_loss(odds * np.exp(-left), targets) <= _logistic_loss(odds * np.exp(-right), targets):
            high = right
        else:
            low = left
    return Temperature(float(np.exp((low + high) / 2)))


def _platt(scores: Floats, targets: Floats) -> Platt:
    """Newton's method on the logistic loss, its steps halved until they help (Lin, Lin and Weng 2007)."""
    inputs = np.stack([_log_odds(scores), np.ones_like(scores)], 1)
    chosen = np.array([1.0, 0.0])
    loss = _logistic_loss(inputs @ chosen, targets)
    for _ in range(100):
        p = _sigmoid(inputs @ chosen)
        slope = inputs.T @ (p - targets)
        curvature = (inputs * (p * (1 - p))[:, None]).T @ inputs + 1e-9 * np.eye(2)
        step, size = np.linalg.solve(curvature, slope), 1.0
        while size > 1e-10 and _logistic_loss(inputs @ (chosen - size * step), targets) > loss:
            size /= 2
        chosen = chosen - size * step
        before, loss = loss, _logistic_loss(inputs @ chosen, targets)
        if before - loss < 1e-12:
            break
    if chosen[0] <= 0:
        raise GuardrailError("scores fall as labels rise: no calibration mends that; look at the labels, or at the policy")
    return Platt(float(chosen[0]), float(chosen[1]))


def _isotonic(scores: Floats, targets: Floats) -> Isotonic:
    """Pool adjacent violators (Ayer et al. 1955); each pool is a flat piece, and lines join them."""
    levels, place = np.unique(scores, return_inverse=True)
    counts = np.bincount(place).astype(float)
    pools: list[tuple[float, float, float, float]] = []  # value, weight, first and last score
    for score, value, weight in zip(levels.tolist(), np.bincount(place, targets) / counts, counts, strict=True):
        pool = (float(value), float(weight), score, score)
        while pools and pools[-1][0] >= pool[0]:
            value_before, weight_before, first, _ = pools.pop()
            together = weight_before + pool[1]
            pool = ((value_before * weight_before + pool[0] * pool[1]) / together, together, first, pool[3])
        pools.append(pool)
    points = [(score, value) for value, _, first, last in pools for score in sorted({first, last})]
    if len(points) == 1:
        points = [(0.0, points[0][1]), (1.0, points[0][1])]
    return Isotonic(tuple(score for score, _ in points), tuple(value for _, value in points))


FITTERS: Mapping[str, Callable[[Floats, Floats], Calibration]] = MappingProxyType(
    {"temperature": _temperature, "platt": _platt, "isotonic": _isotonic}
)


def _log_odds(scores: Floats) -> Floats:
    inside = np.clip(scores, NEAREST, 1 - NEAREST)
    found: Floats = np.log(inside) - np.log1p(-inside)
    return found


def _sigmoid(x: Floats) -> Floats:
    found: Floats = np.exp(-np.logaddexp(0, -x))
    return found


def _logistic_loss(odds: Floats, targets: Floats) -> float:
    return float(np.mean(np.logaddexp(0, odds) - targets * odds))


def _log_loss(scores: Floats, labels: Floats) -> float:
    return _logistic_loss(_log_odds(scores), labels)
