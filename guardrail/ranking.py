"""How scores rank: ROC and precision-recall curves and what is read from them, in numpy alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """What each threshold would flag. `thresholds` are the distinct scores, falling; a text is flagged when its score reaches one.

    `hits[i]` positives and `false[i]` negatives are flagged at `thresholds[i]`.
    """

    thresholds: Floats
    hits: Counts
    false: Counts
    positives: int
    negatives: int

    @property
    def both(self) -> bool:
        """Whether both labels occur; without, there is no curve to speak of."""
        return self.positives > 0 and self.negatives > 0

    @property
    def recall(self) -> Floats:
        """Share of the positives that is flagged, by threshold; 0 without positives."""
        return self.hits / max(self.positives, 1)

    @property
    def fpr(self) -> Floats:
        """Share of the negatives that is flagged, by threshold; 0 without negatives."""
        return self.false / max(self.negatives, 1)

    @property
    def precision(self) -> Floats:
        """Share of the flagged that is positive, by threshold."""
        return self.hits / (self.hits + self.false)

    @property
    def f1(self) -> Floats:
        """Harmonic mean of precision and recall, by threshold."""
        found: Floats = 2 * self.hits / np.maximum(self.hits + self.false + self.positives, 1)
        return found

    def auc(self) -> float | None:
        """Area under the ROC curve, ties counted half; None where only one label occurs."""
        if not self.both:
            return None
        steps, before = np.diff(self.recall, prepend=0.0), np.concatenate([[0.0], self.fpr])
        return float((steps * (1 - (before[:-1] + before[1:]) / 2)).sum())

    def average_precision(self) -> float | None:
        """Area under the precision-recall curve as steps (no interpolation); None where only one label occurs."""
        if not self.both:
            return None
        return float((np.diff(self.recall, prepend=0.0) * self.precision).sum())

    def recall_at(self, fpr: float) -> float | None:
        """The highest recall of a threshold with at most this false positive rate (0: none is as strict); None as above."""
        if not self.both:
            return None
        return float(self.recall[self.fpr <= fpr].max(initial=0.0))


def curve(scores: Sequence[float] | Floats, labels: Sequence[int] | Floats | Counts) -> Curve:
    """The curve of scores against 0/1 labels of the same length."""
    value, truth = np.asarray(scores, np.float64), np.asarray(labels, np.int64)
    order = np.argsort(-value, kind="stable")
    value, truth = value[order], truth[order]
    last = np.flatnonzero(np.append(np.diff(value) != 0, True)) if len(value) else np.zeros(0, np.int64)
    hits = np.cumsum(truth)[last]
    return Curve(value[last], hits, last + 1 - hits, int(truth.sum()), int(len(truth) - truth.sum()))
