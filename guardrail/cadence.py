"""When a growing text is judged again: after so many tokens, after so long, at the end of a sentence, and always at its end."""

import math
import re
from dataclasses import dataclass

_SENTENCE_END = re.compile(r"[.!?。！？…]['\")\]]*\s$|\n$")


@dataclass(frozen=True, slots=True)
class Cadence:
    """`tokens` or `seconds` since the last check, whichever comes first; a sentence's end once `least_tokens` have gathered."""

    tokens: int = 16
    seconds: float = 0.25
    least_tokens: int = 4

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.least_tokens < 1 or self.seconds <= 0:
            raise ValueError("a cadence counts at least one token, and a time above 0 seconds")

    def due(self, *, tokens: int, seconds: float, text: str) -> bool:
        """Whether to check now. `tokens` and `seconds` have passed since the last check; `text` is what was added since."""
        if tokens <= 0:
            return False
        if tokens >= self.tokens or seconds >= self.seconds:
            return True
        return tokens >= self.least_tokens and _SENTENCE_END.search(text) is not None


@dataclass(frozen=True, slots=True)
class Widening:
    """Checks of a growing text at least `step` characters apart, and further apart by `growth` of what there is already.

    A classifier that reads the whole text at each check reads, with any growth, at most 1 + 1/growth times the text and a step in all,
    and the number of checks grows with the logarithm of the length. One that keeps what it has read needs no growth.
    """

    step: int
    growth: float = 0.0

    def __post_init__(self) -> None:
        if self.step < 1 or not 0.0 <= self.growth <= 10.0:
            raise ValueError("checks are at least one character apart and widen by 0 to 10 times the text")

    def after(self, end: int) -> int:
        """The length at which a text that was judged up to `end` is judged next."""
        return end + max(self.step, math.ceil(end * self.growth))

    def most(self, length: int) -> int:
        """How many checks a text of this length can have, the one at its end aside."""
        count, end = 0, 0
        while (end := self.after(end)) <= length:
            count += 1
        return count
