"""One row that somebody waits for, as the scheduler sees it: numbers and names, no tensors and no text."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import Enum


class Place(Enum):
    """Where a piece of work is: always in one of these, so that none is lost and none runs twice."""

    NEW = "new"
    COLD = "cold"  # its prefix is not resident
    READY = "ready"
    NEXT = "next"  # it did not fit a batch and goes first in the next one
    PARKED = "parked"  # another one of its lane is under way
    DEFERRED = "deferred"  # there was no room for it; it is tried again later
    RUNNING = "running"
    GONE = "gone"  # run, or not wanted any more


@dataclass(slots=True, eq=False)
class Work:
    """`tokens` are still to be run behind `prefix`; none at all for one that only wants the prefix resident.

    `deadline` and `arrived` are instants of one clock. A smaller `level` goes first. Of the works with one `lane` only one is under
    way at a time, in order of their deadlines.
    """

    prefix: str
    tokens: int
    deadline: float
    level: int = 0
    tenant: str = "*"
    lane: Hashable | None = None
    place: Place = Place.NEW
    lanes: tuple[Hashable, ...] = ()  # held now
    charged: int = 0  # of its tenant's share, for the batch it is in
    retries: int = 0
    serial: int = field(default=0)

    @property
    def gone(self) -> bool:
        """It must not run (any more)."""
        return self.place is Place.GONE
