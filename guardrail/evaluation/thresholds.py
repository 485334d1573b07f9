"""Which threshold a target asks for, read from the curve of a policy's scores."""

from dataclasses import dataclass

import numpy as np

from guardrail.errors import GuardrailError
from guardrail.ranking import Curve

PRESETS = {"high-precision": 0.8, "high-recall": 0.6}  # published settings of a CoPE model's probability, not fitted
TARGETS = ("f1", "fpr=0.01", "fpr=0.05", "precision=0.9", "recall=0.9", *PRESETS)
DIGITS = 4


@dataclass(frozen=True, slots=True)
class Proposal:
    """A threshold for a target and what it would have done to the measured texts."""

    target: str
    threshold: float
    precision: float
    recall: float
    f1: float
    fpr: float


def propose(found: Curve, target: str) -> Proposal | None:
    """The threshold for a target; None where no threshold reaches it, or only one label occurs.

    Targets: `f1` (the highest), `fpr=X` (highest recall with at most X of the negatives flagged), `precision=X` (highest recall with at
    least that precision), `recall=X` (fewest false flags with at least that recall), and the presets. Raises GuardrailError for another.
    """
    kind, _, number = target.partition("=")
    if target in PRESETS:
        return _proposal(found, target, PRESETS[target]) if found.both else None
    limit = _share(number, target) if kind in ("fpr", "precision", "recall") else 0.0
    if target != "f1" and kind not in ("fpr", "precision", "recall"):
        raise GuardrailError(f"there is no target {target!r}; use f1, fpr=X, precision=X, recall=X, {' or '.join(PRESETS)}")
    if not found.both:
        return None
    fit = {
        "f1": found.f1 == found.f1.max(),
        "fpr": found.fpr <= limit,
        "precision": found.precision >= limit,
        "recall": found.recall >= limit,
    }[kind]
    fit = fit & (found.hits > 0) & (found.thresholds > 0)
    if not fit.any():
        return None
    # Of equals the highest threshold: it flags fewest. Thresholds fall, so that is the first.
    best = np.argmax(fit) if kind in ("f1", "recall") else np.argmax(np.where(fit, found.recall, -1.0))
    return _proposal(found, target, _between(found, int(best)))


def _between(found: Curve, place: int) -> float:
    """A short number that flags exactly what this score as the threshold would: rounded, from the middle to the next lower score."""
    high = float(found.thresholds[place])
    low = float(found.thresholds[place + 1]) if place + 1 < len(found.thresholds) else 0.0
    middle = round((high + low) / 2, DIGITS)
    return middle if low < middle <= high else high


def _proposal(found: Curve, target: str, threshold: float) -> Proposal:
    flagged = int((found.thresholds >= threshold).sum()) - 1
    if flagged < 0:
        return Proposal(target, threshold, 0.0, 0.0, 0.0, 0.0)
    values = (float(each[flagged]) for each in (found.precision, found.recall, found.f1, found.fpr))
    return Proposal(target, threshold, *values)


def _share(text: str, target: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise GuardrailError(f"the target {target!r} needs a number from 0 to 1 behind `=`, as in fpr=0.01")
    return share
