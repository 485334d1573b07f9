"""One text of a streamed answer on its way through the windows: what came, what is being judged, what is out."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from guardrail.boundary import cluster_end, cluster_start, last_boundary, whole_code_points
from guardrail.cadence import Widening
from guardrail.types import Action, Span, Streaming, StreamMode

MOST_REDACTIONS = 32
"""Times in a row that a window is rewritten and judged again before it is blocked instead."""

_LONG_WAIT = 512  # characters of one cluster, or so, from which places to cut are not looked for at each piece


@dataclass(frozen=True, slots=True)
class StreamPart:
    """Which text: of which choice, and the path that its verdicts name. `whole`: let out in one piece with the choice's end, or not at all.

    A tool call's arguments are `whole`: half of them may be executed.
    """

    choice: int
    path: str
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """What is to be judged: `text`, all of the part so far as its reader will have seen it; what no earlier window held begins at `start`.

    `version` rises when something was taken out of the text: then it is no continuation of what was judged before.
    """

    number: int
    part: StreamPart
    text: str
    start: int
    version: int

    @property
    def end(self) -> int:
        """The place in the part up to which a verdict covers it."""
        return len(self.text)


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the verdicts of one window come to. `spans` (in the window's text): what `REDACT` takes out; none means all that is not out yet.

    `unavailable`: it blocks because it could not be judged.
    """

    action: Action
    spans: tuple[Span, ...] = ()
    unavailable: bool = False


@dataclass(frozen=True, slots=True)
class Pace:
    """How the windows of a part follow one another. `ahead`: windows that may be judged at once."""

    streaming: Streaming
    widening: Widening
    ahead: int
    placeholder: Callable[[str], str]


@dataclass(slots=True)
class _Swap:
    """A placeholder in the text, and how many characters it stands for."""

    start: int
    end: int
    stands_for: int


class PartFlow:
    """Places count in the text as its reader sees it, placeholders included; `produced`, `released`, `withheld` in what was produced."""

    def __init__(self, part: StreamPart, pace: Pace, *, now: float) -> None:
        self.part = part
        self.whole = part.whole or pace.streaming.mode is StreamMode.HOLD
        self.complete = False
        self.due_at: float | None = now + pace.streaming.first_s
        self.version = 0
        self._pace = pace
        self._watched = pace.streaming.mode is StreamMode.WATCH
        self._text = ""
        self._new: list[str] = []
        self._waiting = ""  # the first half of a code point
        self._size = 0
        self._cut = 0  # up to here windows were made
        self._covered = 0  # up to here verdicts let it pass
        self._out = 0
        self._retry = 0
        self._again: int | None = None  # the end of a window that is to be judged once more
        self._dropped = False
        self._flights: dict[int, Window] = {}
        self._rulings: dict[int, Ruling] = {}
        self._swaps: list[_Swap] = []
        self._redactions = 0

    @property
    def produced(self) -> int:
        """Characters that came."""
        return self._raw(self._size) + len(self._waiting)

    @property
    def released(self) -> int:
        """Characters of those that are out, those that a placeholder stands for included."""
        return self._raw(self._out)

    @property
    def withheld(self) -> int:
        """Characters that came and are not out."""
        return self.produced - self.released

    @property
    def kept(self) -> int:
        """Characters in memory."""
        return 0 if self._dropped else self._size

    @property
    def settled(self) -> bool:
        """Whether all that came was judged and may pass."""
        return self._covered == self._size and not self._flights and not self._waiting

    def add(self, text: str) -> str:
        """Take what was produced; what is out with that, which is something under `watch` only."""
        self.complete = False
        text, self._waiting = whole_code_points(self._waiting + text)
        return self._take(text)

    def end(self) -> str:
        """Nothing more comes, for now. What is out with that."""
        self.complete = True
        if not self._waiting:
            return ""
        waiting, self._waiting = self._waiting, ""
        return self._take(waiting)

    def drop(self) -> None:
        """Forget the text: none of it will be let out. What still comes is counted."""
        self._dropped = True
        self._text = ""
        self._new.clear()
        self._flights.clear()
        self._rulings.clear()

    def cut(self, number: int, *, now: float | None = None) -> Window | None:
        """The next window, numbered so, if one is to be judged now. `now` is left out where no time has passed since the last call."""
        if self._dropped or self._cut == self._size:
            return None
        if self._again is not None:
            return self._window(number, self._again)
        if self.complete:
            return self._window(number, self._size)
        if self.whole or len(self._flights) >= self._pace.ahead or self._size < self._retry:
            return None
        least = self._pace.widening.after(self._cut)
        if self.due_at is not None and now is not None and now >= self.due_at:
            # A window no longer than the overlap would let nothing out: it is judged as soon as it is longer.
            least = min(least, 1 if self._watched else self._pace.streaming.overlap + 1)
        if self._size <= least:
            return None
        self._join()
        end = last_boundary(self._text, self._cut, least - 1, self._size - 1)
        if end is None or (end := self._outside_placeholders(end)) < least:
            waited = self._size - least
            self._retry = self._size + waited // 8 if waited > _LONG_WAIT else 0
            return None
        return self._window(number, end)

    def settle(self, number: int, ruling: Ruling) -> bool:
        """Take the ruling on a window; False where it means that nothing more of the choice may come out.

        Rulings take effect in the windows' order, a block at once. One on a window that was judged in vain, since something before its end
        was taken out meanwhile, means nothing.
        """
        if number not in self._flights:
            return True
        if ruling.action is Action.BLOCK or (ruling.action is Action.REDACT and (self._watched or self.part.whole)):
            return False
        self._rulings[number] = ruling
        while self._flights and (first := next(iter(self._flights))) in self._rulings:
            window, ruling = self._flights.pop(first), self._rulings.pop(first)
            if ruling.action is not Action.REDACT:
                self._covered, self._redactions = window.end, 0
            elif not self._redact(window, ruling.spans):
                return False
        return True

    def release(self) -> str:
        """What may go out now and was not out before: up to the overlap before the end of what was judged, all of it if that is the end."""
        if self._dropped or self.whole or self._watched or self._covered <= self._out:
            return ""
        if self.complete and self.settled:
            return self._release_to(self._size)
        place = self._covered - self._pace.streaming.overlap
        if place <= self._out:
            return ""
        if place < self._covered:
            self._join()
            found = last_boundary(self._text, self._out, self._out, place)
            place = self._outside_placeholders(self._out if found is None else found)
        return self._release_to(place)

    def release_whole(self) -> str:
        """All that is left, of a part that is let out in one piece. Only where it is `settled`."""
        return self._release_to(self._size) if self.settled else ""

    def unjudged(self, number: int) -> Window | None:
        """All that is out, as one window, where no verdict that let it pass covers it."""
        if self._dropped or self._covered >= self._out:
            return None
        self._join()
        return Window(number, replace(self.part, whole=True), self._text[: self._out], self._covered, self.version)

    def _release_to(self, place: int) -> str:
        self._join()
        text, self._out = self._text[self._out : place], max(self._out, place)
        return text

    def _take(self, text: str) -> str:
        self._size += len(text)
        if self._dropped or not text:
            return ""
        self._new.append(text)
        if not self._watched or self.whole:
            return ""
        self._out = self._size
        return text

    def _window(self, number: int, end: int) -> Window:
        self._join()
        window = Window(number, self.part, self._text[:end], self._cut, self.version)
        self._flights[number] = window
        self._cut, self._retry, self._again, self.due_at = end, 0, None, None
        return window

    def _redact(self, window: Window, spans: Iterable[Span]) -> bool:
        """Put placeholders into a window's text, which is then to be judged again. False where that cannot be done."""
        self._redactions += 1
        self._join()
        places = self._places(window, spans)
        if self._redactions > MOST_REDACTIONS or places is None:
            return False
        size = self._size
        for place in reversed(places):
            self._swap(place)
        self._flights.clear()
        self._rulings.clear()
        self.version += 1
        self._cut = self._covered = min(self._covered, places[0].start)
        self._again = window.end + self._size - size
        return True

    def _places(self, window: Window, spans: Iterable[Span]) -> list[Span] | None:
        """The spans as far as clusters and placeholders reach, apart and in order. None where one is out already or holds nothing new."""
        found: list[Span] = []
        for span in sorted(spans, key=lambda span: (span.start, span.end)) or [Span(self._out, window.end)]:
            if not self._out <= span.start < span.end <= window.end:
                return None
            start = cluster_start(self._text, self._out, span.start)
            end = cluster_end(self._text, self._out, span.end)
            touched = [swap for swap in self._swaps if swap.start < end and start < swap.end]
            start, end = min([start, *(swap.start for swap in touched)]), max([end, *(swap.end for swap in touched)])
            if found and start <= found[-1].end:
                start, end = found[-1].start, max(end, found.pop().end)
                touched = [swap for swap in self._swaps if swap.start < end and start < swap.end]
            if end - start == sum(swap.end - swap.start for swap in touched):
                return None  # nothing but placeholders: the text could be rewritten for ever
            found.append(Span(start, end))
        return found

    def _swap(self, place: Span) -> None:
        text = self._text[place.start : place.end]
        stands_for = self._raw(place.end) - self._raw(place.start)
        placeholder = self._pace.placeholder(text)
        grown = len(placeholder) - len(text)
        self._text = self._text[: place.start] + placeholder + self._text[place.end :]
        self._size += grown
        self._swaps = [
            _Swap(swap.start + grown * (swap.start >= place.end), swap.end + grown * (swap.start >= place.end), swap.stands_for)
            for swap in self._swaps
            if swap.end <= place.start or swap.start >= place.end
        ]
        self._swaps.append(_Swap(place.start, place.start + len(placeholder), stands_for))

    def _outside_placeholders(self, place: int) -> int:
        return min([place, *(swap.start for swap in self._swaps if swap.start < place < swap.end)])

    def _raw(self, place: int) -> int:
        """A place in the shown text as one in what was produced. No place within a placeholder is asked."""
        if not self._swaps:
            return place
        return place - sum(swap.end - swap.start - swap.stands_for for swap in self._swaps if swap.end <= place)

    def _join(self) -> None:
        if self._new:
            self._text += "".join(self._new)
            self._new.clear()
