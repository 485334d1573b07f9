"""How long many things took, in a fixed number of classes: what a count of a million costs to keep is what one of ten does."""

import math
from collections import Counter

STEP = 1.02
"""Each class ends this much above the one before: a percentile is at most 2% too high, and never above the longest."""
LEAST_S, MOST_S = 1e-5, 3_600.0
"""What is shorter than the one, or longer than the other, is of the first or of the last class."""
_LAST = math.ceil(math.log(MOST_S / LEAST_S, STEP))


class Durations:
    """Counts by class. Not for several threads at once."""

    __slots__ = ("classes", "count", "longest")

    def __init__(self) -> None:
        self.classes: Counter[int] = Counter()
        self.count = 0
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        within = min(max(LEAST_S, seconds), MOST_S)
        self.classes[math.ceil(math.log(within / LEAST_S, STEP))] += 1
        self.count += 1
        self.longest = max(self.longest, seconds)

    def take(self, other: "Durations") -> None:
        """All of another one's, too."""
        self.classes.update(other.classes)
        self.count += other.count
        self.longest = max(self.longest, other.longest)

    def percentile(self, share: float) -> float:
        """The seconds that this share (0 to 1) of them does not exceed; 0 without any."""
        left = min(self.count - 1, int(share * self.count))
        for place in sorted(self.classes):
            left -= self.classes[place]
            if left < 0:
                return self.longest if place == _LAST else min(self.longest, LEAST_S * STEP**place)
        return 0.0
