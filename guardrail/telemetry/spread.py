"""A histogram whose recording costs a tenth of the SDK's: it counts here, and its points are asked for when somebody collects.

There is no instrument of OpenTelemetry's for that, so that only the exporter that knows of it (`metric_export`) sends it on.
"""

import math
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from opentelemetry.trace import get_current_span
from opentelemetry.util.types import AttributeValue

Labels = tuple[tuple[str, AttributeValue], ...]
"""Attributes that were put together before: they must be bounded in their values, and in one order at each place."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An exemplar: a value, when it was recorded (nanoseconds since 1970), and the sampled span that it was recorded in."""

    value: float
    time: int
    trace_id: int
    span_id: int


@dataclass(frozen=True, slots=True)
class Point:
    """What one series has come to since `began`. `counts` has one entry more than the spread has bounds."""

    labels: Labels
    began: int
    counts: tuple[int, ...]
    total: float
    least: float
    most: float
    exemplars: tuple[Seen, ...]


class _Cell:
    __slots__ = ("began", "counts", "exemplars", "least", "most", "total")

    def __init__(self, buckets: int) -> None:
        self.began = time.time_ns()
        self.counts = [0] * buckets
        self.total = 0.0
        self.least = math.inf
        self.most = -math.inf
        self.exemplars: dict[int, Seen] = {}


class Spread:
    """One histogram. `bounds` are the upper ends of its buckets, each of which it belongs to itself."""

    def __init__(self, name: str, unit: str, description: str, bounds: Sequence[float]) -> None:
        self.name = name
        self.unit = unit
        self.description = description
        self.bounds = tuple(bounds)
        self._cells: dict[Labels, _Cell] = {}
        self._lock = threading.Lock()

    def record(self, amount: float, labels: Labels) -> None:
        """One more value; nothing for one that is negative or no number."""
        if not 0 <= amount < math.inf:
            return
        place = bisect_left(self.bounds, amount)
        with self._lock:
            if (cell := self._cells.get(labels)) is None:
                cell = self._cells[labels] = _Cell(len(self.bounds) + 1)
            cell.counts[place] += 1
            cell.total += amount
            cell.least = min(cell.least, amount)
            cell.most = max(cell.most, amount)
            if place not in cell.exemplars:
                context = get_current_span().get_span_context()
                if context.trace_flags.sampled and context.is_valid:
                    cell.exemplars[place] = Seen(amount, time.time_ns(), context.trace_id, context.span_id)

    def points(self) -> list[Point]:
        """Every series as it is now. Of each bucket one exemplar, the first since this was last asked."""
        found = []
        with self._lock:
            for labels, cell in self._cells.items():
                exemplars = tuple(cell.exemplars.values())
                cell.exemplars.clear()
                found.append(Point(labels, cell.began, tuple(cell.counts), cell.total, cell.least, cell.most, exemplars))
        return found


class Spreads:
    """The histograms of one process."""

    def __init__(self) -> None:
        self._every: list[Spread] = []

    def histogram(self, name: str, unit: str, description: str, bounds: Sequence[float]) -> Spread:
        """A new one."""
        made = Spread(name, unit, description, bounds)
        self._every.append(made)
        return made

    def __iter__(self) -> Iterator[Spread]:
        return iter(self._every)
