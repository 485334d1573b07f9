"""Thresholds and calibrations of an adapter's categories, from units that it was not trained on; and what came of them on others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guardrail.calibration import Calibration
from guardrail.engine.adapter.frame import UNCALIBRATED
from guardrail.errors import GuardrailError
from guardrail.ranking import Curve, curve
from guardrail.training.adapter_rows import AdapterRow
from guardrail.training.calibrate import HeldOut, calibrate

Floats = NDArray[np.float64]
DIGITS = 6


@dataclass(frozen=True, slots=True)
class Target:
    """`fpr` None: the highest F1. Else the highest recall with at most this share of the negatives flagged."""

    fpr: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Target":
        """Of `f1` or `fpr=X`. Raises GuardrailError for another."""
        kind, _, number = text.partition("=")
        try:
            found = cls() if text == "f1" else cls(float(number)) if kind == "fpr" else None
        except ValueError:
            found = None
        if found is None or not (found.fpr is None or 0 <= found.fpr <= 1):
            raise GuardrailError(f"there is no target {text!r}; use f1, or fpr=X with X from 0 to 1, as in fpr=0.01")
        return found


@dataclass(frozen=True, slots=True)
class Known:
    """Scores and labels (0, 1) of one category where the label is known, with the rows' units."""

    scores: Floats
    labels: NDArray[np.int64]
    units: tuple[str, ...]

    @classmethod
    def of(cls, rows: Sequence[AdapterRow], scores: Floats, category: str) -> "Known":
        """`scores` [rows] of the category."""
        places = [place for place, row in enumerate(rows) if category in row.labels]
        labels = np.array([rows[place].labels[category] for place in places], np.int64)
        return cls(scores[places], labels, tuple(rows[place].unit for place in places))

    @property
    def curve(self) -> Curve:
        """What each threshold would flag."""
        return curve(self.scores, self.labels)

    @property
    def both(self) -> bool:
        """Whether both labels occur."""
        return self.curve.both


@dataclass(frozen=True, slots=True)
class Choice:
    """A category's threshold on plain probabilities and its calibration; `why` says what could not be had, empty: nothing."""

    threshold: float = UNCALIBRATED
    calibration: Calibration | None = None
    why: str = ""


def choose(known: Known, target: Target) -> Choice:
    """Of equals the highest threshold. Without both labels, or where nothing meets the target, it stays at .5 and says so."""
    threshold, why = UNCALIBRATED, []
    if not known.both:
        return Choice(why="the held-out texts do not have both labels, so the threshold is .5 and there is no calibration")
    found = threshold_for(known, target)
    if found is None:
        why.append(f"no threshold flags at most {target.fpr:.2%} of the negatives and anything else, so it is .5")
    else:
        threshold = found
    calibration = None
    try:
        rows = zip(known.scores.tolist(), known.labels.tolist(), known.units, strict=True)
        calibration = calibrate([HeldOut(score, label, unit) for score, label, unit in rows]).calibration
    except GuardrailError as error:
        why.append(f"no calibration: {error}")
    return Choice(threshold, calibration, "; ".join(why))


def threshold_for(known: Known, target: Target) -> float | None:
    """A short number between the lowest score that is to be flagged and the next lower one; None where nothing meets the target."""
    ranked = known.curve
    meets = ranked.f1 == ranked.f1.max() if target.fpr is None else ranked.false <= target.fpr * ranked.negatives
    meets &= ranked.hits > 0
    if not meets.any():
        return None
    best = int(np.argmax(np.where(meets, ranked.hits, -1)) if target.fpr is not None else np.argmax(meets))
    levels = ranked.thresholds
    high, low = float(levels[best]), float(levels[best + 1]) if best + 1 < len(levels) else 0.0
    middle = round((high + low) / 2, DIGITS)
    return middle if low < middle <= high else high


def measures(known: Known, threshold: float) -> Mapping[str, float | int | None]:
    """How a category's scores and threshold do on these texts; None where the texts cannot tell."""
    flagged, truth = known.scores >= threshold, known.labels == 1
    hits, positives, negatives = int((flagged & truth).sum()), int(truth.sum()), int((~truth).sum())
    return {
        "texts": len(truth),
        "positives": positives,
        "precision": _share(hits, int(flagged.sum())),
        "recall": _share(hits, positives),
        "f1": _share(2 * hits, int(flagged.sum()) + positives),
        "fpr": _share(int((flagged & ~truth).sum()), negatives),
        "auc": None if (area := known.curve.auc()) is None else round(area, 4),
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
