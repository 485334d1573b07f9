"""Whether scores mean what they say: reliability bins, expected calibration error, Brier score."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BINS = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """Texts with a score in [low, high) (the last bin: up to 1): how many, their mean score, and the share that violates."""

    low: float
    high: float
    rows: int
    mean: float
    share: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """`ece`: mean distance of score and share over bins of equal width, weighted by rows. `brier`: mean squared error of the score."""

    ece: float
    brier: float
    bins: tuple[Bin, ...]


def reliability(scores: Sequence[float], labels: Sequence[int], *, bins: int = BINS) -> Reliability:
    """Measure scores against 0/1 labels. Bins without a text are left out. Raises ValueError for no scores."""
    if len(scores) == 0:
        raise ValueError("there are no scores to measure")
    value, truth = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    place = np.minimum((value * bins).astype(np.int64), bins - 1)
    found = tuple(
        Bin(number / bins, (number + 1) / bins, int(mine.sum()), float(value[mine].mean()), float(truth[mine].mean()))
        for number in range(bins)
        if (mine := place == number).any()
    )
    ece = sum(each.rows * abs(each.mean - each.share) for each in found) / len(value)
    return Reliability(ece, float(((value - truth) ** 2).mean()), found)
