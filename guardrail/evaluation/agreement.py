"""Cohen's kappa with a bootstrap interval that draws units, not rows: rows of one unit say the same thing twice."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
CHUNK = 50  # resamples drawn at once: bounds memory
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Kappa:
    """Agreement beyond chance, and the 95% percentile interval. 0 where chance alone agrees (one side says the same of everything)."""

    value: float
    low: float
    high: float


def kappa(first: Sequence[bool], second: Sequence[bool], units: Sequence[str] | None = None, *, seed: int = 0) -> Kappa:
    """Agreement of two raters over the same texts. `units` (empty: the text alone) are drawn together. Raises ValueError for none."""
    if len(first) == 0:
        raise ValueError("there are no texts to agree on")
    ours, theirs = np.asarray(first, np.bool_), np.asarray(second, np.bool_)
    cells = np.eye(4)[2 * ours + theirs]
    names = [unit or f"\0{place}" for place, unit in enumerate(units)] if units is not None else list(map(str, range(len(ours))))
    _, place = np.unique(names, return_inverse=True)
    tables = np.zeros((int(place.max()) + 1, 4))
    np.add.at(tables, place, cells)
    draws = np.random.default_rng(seed)
    count = len(tables)
    found = [_kappas(draws.multinomial(count, np.full(count, 1 / count), size=CHUNK) @ tables) for _ in range(RESAMPLES // CHUNK)]
    low, high = np.quantile(np.concatenate(found), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Kappa(float(_kappas(tables.sum(0)[None])[0]), float(low), float(high))


def _kappas(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of [n, 4] tables: neither, second alone, first alone, both."""
    rows = tables.sum(1)
    agreed = (tables[:, 0] + tables[:, 3]) / rows
    first, second = (tables[:, 2] + tables[:, 3]) / rows, (tables[:, 1] + tables[:, 3]) / rows
    chance = first * second + (1 - first) * (1 - second)
    return np.where(chance < 1, (agreed - chance) / np.where(chance < 1, 1 - chance, 1.0), 0.0)
