"""When a growing text is judged again: after so many tokens, after so long, at the end of a sentence, and always at its end."""

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
