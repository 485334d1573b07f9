"""Turns of a conversation: which of them a route judges, and what was said in several of them, read as one text. Pure."""

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, TypeVar

from guardrail.types import Part, Span

JOINED = 2_000
"""Characters of the user's turns that are judged as one text: the latest ones."""
_NAMED = 8  # joined parts that are named; many more make no path that anybody reads

_STORED = re.compile(r"\w+\[\d+\]\.\w+\[\d+\]")

_Entry = TypeVar("_Entry", int, str)

Scope = Literal["all", "each", "latest_turn"]


class Speaker(StrEnum):
    """Whose an entry of a conversation is. `other`: a role or a kind of item that is not known."""

    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"
    SYSTEM = "system"
    OTHER = "other"


_EARLIER = frozenset({Speaker.USER, Speaker.ASSISTANT, Speaker.TOOL})


@dataclass(frozen=True, slots=True)
class History:
    """The entries of a request's list `name` (`messages`, `input`), by speaker; parts tell their entry by their paths."""

    name: str
    speakers: tuple[Speaker, ...]
    _path: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_path", re.compile(rf"{re.escape(self.name)}\[(\d+)\]"))

    def entry(self, path: str) -> int | None:
        """The number of the entry that a part stands in; None for what is no part of an entry."""
        found = self._path.match(path)
        return int(found[1]) if found and int(found[1]) < len(self.speakers) else None

    @property
    def latest(self) -> int:
        """The first entry after the last one of the assistant's. What the assistant is made to begin with comes after it, too."""
        end = len(self.speakers)
        while end and self.speakers[end - 1] is Speaker.ASSISTANT:
            end -= 1
        return next((place for place in range(end, 0, -1) if self.speakers[place - 1] is Speaker.ASSISTANT), 0)

    @property
    def turns(self) -> tuple[range, ...]:
        """Each of the user's entries with all that follows until the next one: what can be left out without breaking what stays.

        The last one is the latest turn. What comes before the first is none.
        """
        begins = [place for place, speaker in enumerate(self.speakers) if speaker is Speaker.USER]
        return tuple(range(begin, end) for begin, end in zip(begins, [*begins[1:], len(self.speakers)], strict=False))


def scoped(parts: Sequence[Part], history: History | None, scope: Scope, stored: Sequence[Part] = ()) -> tuple[Part, ...]:
    """The parts that are judged, and the user's entries among them joined. `stored` are those of turns that a request continues, in order.

    `each` joins none. `latest_turn` leaves out earlier entries of user, assistant and tools, and joins no stored ones; whatever else there
    is, is judged wherever it stands.
    """
    if scope == "each" or (history is None and not (stored and scope == "all")):
        return (*stored, *parts)
    kept = tuple(parts) if scope == "all" or history is None else tuple(part for part in parts if not _earlier(part, history))
    together = joined(kept, history, before=stored if scope == "all" else ())
    return (*stored, *kept) if together is None else (*stored, *kept, together)


def _stored_entry(path: str) -> str | None:
    """The entry of a stored turn that a part stands in, which its path begins with."""
    found = _STORED.match(path)
    return found[0] if found else None


def _earlier(part: Part, history: History) -> bool:
    entry = history.entry(part.path)
    return entry is not None and entry < history.latest and history.speakers[entry] in _EARLIER


def user_texts(parts: Sequence[Part], history: History) -> dict[int, Part]:
    """What each of the user's entries says, by its number: its text, or the text that its pieces make."""
    return _said(parts, history.entry)


def _said(parts: Sequence[Part], entry_of: Callable[[str], _Entry | None]) -> dict[_Entry, Part]:
    found: dict[_Entry, Part] = {}
    for part in parts:
        entry = entry_of(part.path)
        if entry is None or part.role != "user" or part.kind != "text" or not part.text:
            continue
        known = found.get(entry)
        if known is None or part.path.endswith("[*]"):
            found[entry] = part
        elif not known.path.endswith("[*]"):  # several pieces of which nobody made a whole: the longest stands for them
            found[entry] = max(known, part, key=lambda each: len(each.text or ""))
    return found


def said_by_user(parts: Sequence[Part], history: History | None, stored: Sequence[Part] = ()) -> str | None:
    """All that the user said, in order. What the assistant is said to have answered in between ends nothing: a client writes that, too.

    `stored` are the parts of turns that a request continues. Where there are no turns it is all that the request says.
    """
    if history is None or not history.turns:
        own = [part for part in parts if part.kind == "text" and part.role == "user"]
    else:
        own = [part for _, part in sorted(user_texts(parts, history).items())]
    texts = [part.text for part in (*_said(stored, _stored_entry).values(), *own) if part.text and part.text.strip()]
    return "\n".join(texts) or None


def joined(parts: Sequence[Part], history: History | None, most: int = JOINED, before: Sequence[Part] = ()) -> Part | None:
    """The latest `most` characters of what the user said in several entries, as one text that knows its pieces; None for one entry.

    Without a history each text is an entry. `before` are the parts of stored turns, in order, which come first.
    """
    own = [part for _, part in sorted(user_texts(parts, history).items())] if history is not None else [*_said(parts, str).values()]
    pieces: list[tuple[Part, str]] = []
    left = most
    for part in reversed([*_said(before, _stored_entry).values(), *own]):
        text = part.text or ""
        if left <= 0 or not text.strip():
            continue
        pieces.append((part, text[-left:]))
        left -= len(text) + 1
    if len(pieces) < 2:
        return None
    whole, places = "", []
    for part, text in reversed(pieces):
        whole += "\n" if whole else ""
        places.append((part.path, len(whole), len(part.text or "") - len(text)))
        whole += text
    named = [path for path, _, _ in places]
    if len(named) > _NAMED:
        named = [*named[: _NAMED // 2], "…", *named[-_NAMED // 2 :]]
    return Part("+".join(named), whole, role="user", pieces=tuple(places))


def located(part: Part, span: Span | None) -> tuple[str, Span | None]:
    """Where a span of a joined text stands: the piece it lies in and its place there, or the whole and the span as it is."""
    if span is None or not part.pieces:
        return part.path, span
    begins = [begin for _, begin, _ in part.pieces]
    first, last = bisect_right(begins, span.start) - 1, bisect_right(begins, max(span.start, span.end - 1)) - 1
    if first != last or first < 0:
        return part.path, span
    path, begin, cut = part.pieces[first]
    seam = begins[first + 1] - 1 if first + 1 < len(begins) else len(part.text or "")
    return path, Span(min(span.start, seam) - begin + cut, min(span.end, seam) - begin + cut)
