"""The events of one answer on their way out, in the order in which they came, whatever is judged first."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from guardrail.boundary import whole_code_points

Document = dict[str, object]


@dataclass(slots=True, eq=False)
class Stretch:
    """One block's share of a text: from `start` to `end` of what is said under its `path`, between opening and closing events.

    `spell` makes the event that adds text to it. `beside` are its other events, which need not be harmless.
    """

    path: str
    start: int
    opening: list[Document]
    spell: Callable[[str], Document]
    beside: list[Document] = field(default_factory=list)
    closing: Callable[[str], Iterable[Document]] | None = None
    end: int | None = None
    pending: list[str] = field(default_factory=list)
    out: list[str] = field(default_factory=list)
    opened: bool = False

    @property
    def told(self) -> str:
        """What of its text is out."""
        return "".join(self.out)


class Passage:
    """Stretches go out as far as their texts may; what was withheld stops all behind it until `rest`."""

    def __init__(self) -> None:
        self._queue: deque[Stretch | list[Document]] = deque()
        self._stretches: dict[str, list[Stretch]] = {}  # those that may still get text, by path
        self._lengths: dict[str, int] = {}
        self._halves: dict[str, str] = {}
        self._places: dict[str, int] = {}

    @property
    def open(self) -> Stretch | None:
        """The stretch that was begun and not ended, in what is out."""
        first = self._queue[0] if self._queue else None
        return first if isinstance(first, Stretch) and first.opened else None

    @property
    def last(self) -> Stretch | None:
        """The stretch that came last, if nothing came behind it and it is not out as a whole."""
        last = self._queue[-1] if self._queue else None
        return last if isinstance(last, Stretch) else None

    @property
    def idle(self) -> bool:
        """Whether all that came is out."""
        return not self._queue

    def begin(self, path: str, opening: list[Document], spell: Callable[[str], Document]) -> Stretch:
        """A block of text starts."""
        stretch = Stretch(path, self._lengths.get(path, 0), opening, spell)
        self._queue.append(stretch)
        self._stretches.setdefault(path, []).append(stretch)
        return stretch

    def said(self, path: str, text: str) -> None:
        """More of a text came, of the stretch that began last or, before the next begins, of none."""
        text, self._halves[path] = whole_code_points(self._halves.get(path, "") + text)
        self._lengths[path] = self._lengths.get(path, 0) + len(text)

    def close(self, stretch: Stretch, closing: Callable[[str], Iterable[Document]] | None = None) -> None:
        """A block ended: `closing` makes the events for that out of the text that is out. None: they are withheld."""
        stretch.end, stretch.closing = self._lengths.get(stretch.path, 0), closing or (lambda _: ())

    def withhold(self, *documents: Document) -> None:
        """Events that wait for `rest`, and all that comes behind them."""
        if self._queue and isinstance(last := self._queue[-1], list):
            last.extend(documents)
        else:
            self._queue.append(list(documents))

    def text(self, path: str, text: str, place: int) -> list[Document]:
        """Text of a path may go out, up to `place` of what was said. The events that go out with it.

        Where something was taken out of it, so that the lengths differ, it goes to the first stretch that it touches.
        """
        before, self._places[path] = self._places.get(path, 0), place
        touched = [each for each in self._stretches.get(path, ()) if each.start < place and (each.end is None or each.end > before)]
        for number, stretch in enumerate(touched):
            if len(text) == place - before:
                end = place if stretch.end is None else min(stretch.end, place)
                stretch.pending.append(text[max(stretch.start, before) - before : end - before])
            elif number == 0:
                stretch.pending.append(text)
        return self._flush(final=False)

    def rest(self) -> list[Document]:
        """All that is left: everything may pass."""
        return self._flush(final=True)

    def _flush(self, *, final: bool) -> list[Document]:
        out: list[Document] = []
        while self._queue:
            first = self._queue[0]
            if isinstance(first, list):
                if not final:
                    break
                out += first
            else:
                ended = first.closing is not None and first.end is not None and self._places.get(first.path, 0) >= first.end
                out += self._said(first, ended=ended or final)
                if not (ended or final):
                    break
                self._stretches[first.path].remove(first)
            self._queue.popleft()
        return out

    def _said(self, stretch: Stretch, *, ended: bool) -> list[Document]:
        text = "".join(stretch.pending)
        stretch.pending.clear()
        if not text and not ended:
            return []
        out = [] if stretch.opened else list(stretch.opening)
        stretch.opened = True
        if text:
            stretch.out.append(text)
            out.append(stretch.spell(text))
        if ended and stretch.closing is not None:
            out += stretch.closing(stretch.told)
        return out
