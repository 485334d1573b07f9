"""One step of reading a text otherwise, and the way back: which characters of the source a span of the result stands for."""

import math
import time
from bisect import bisect_right
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass

from guardrail.types import Span

Edit = tuple[int, int, str]
"""Characters [start, end) of the source, and what is read in their place."""


DEADLINE = ContextVar("DEADLINE", default=math.inf)
"""The `time.monotonic()` instant until which the text may be read that is being read now."""


def in_time() -> None:
    """Raises TimeoutError once `DEADLINE` is past. Called for each kind of disguise and for each code in a text."""
    if (deadline := DEADLINE.get()) < math.inf and time.monotonic() >= deadline:
        raise TimeoutError("the text was not read before the deadline")


@dataclass(frozen=True, slots=True)
class Step:
    """`name` of what was undone, the `text` that came out, `touched`: from the first to the last character of the source it changed.

    Between the replaced stretches the text is the source's, character for character. `starts`, `ends`: those stretches in the result;
    `sources`, `source_ends`: in the source; all in order. A step that replaces single characters by single ones has none.
    """

    name: str
    text: str
    touched: Span
    starts: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    sources: tuple[int, ...] = ()
    source_ends: tuple[int, ...] = ()

    def back(self, span: Span) -> Span:
        """The span of the source that a span of the result stands for; a replaced stretch counts whole. O(log stretches)."""
        start = self._back(span.start, first=True)
        if span.end <= span.start:
            return Span(start, start)
        return Span(start, max(start, self._back(span.end - 1, first=False)))

    def _back(self, place: int, *, first: bool) -> int:
        """Where the character at `place` begins (`first`) or ends in the source."""
        stretch = bisect_right(self.starts, place) - 1
        if stretch < 0:
            return place if first else place + 1
        beyond = place - self.ends[stretch]
        if beyond < 0:
            return self.sources[stretch] if first else self.source_ends[stretch]
        return self.source_ends[stretch] + beyond + (0 if first else 1)


def rewritten(name: str, text: str, edits: Iterable[Edit]) -> Step | None:
    """The text with all edits (in order, apart from one another) made, or None when that changes nothing."""
    kept = [edit for edit in edits if text[edit[0] : edit[1]] != edit[2]]
    if not kept:
        return None
    pieces: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    done = length = 0
    for start, end, instead in kept:
        pieces += (text[done:start], instead)
        starts.append(length := length + start - done)
        ends.append(length := length + len(instead))
        done = end
    pieces.append(text[done:])
    touched = Span(kept[0][0], kept[-1][1])
    sources, source_ends = tuple(edit[0] for edit in kept), tuple(edit[1] for edit in kept)
    return Step(name, "".join(pieces), touched, tuple(starts), tuple(ends), sources, source_ends)


def respelled(name: str, text: str, other: str) -> Step | None:
    """A reading of the same length, character by character, or None when it is the same. Raises ValueError for another length."""
    if len(text) != len(other):
        raise ValueError(f"{name} makes {len(other)} characters of {len(text)}")
    if text == other:
        return None
    changed = [place for place, (one, two) in enumerate(zip(text, other, strict=True)) if one != two]
    return Step(name, other, Span(changed[0], changed[-1] + 1))
