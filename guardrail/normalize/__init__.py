"""What a text says to a reader, beside how it is spelled: disguises undone, with a trace of what and a way back to the raw text."""

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from guardrail.normalize.encodings import base32, base64_, binary, decimal, hexadecimal
from guardrail.normalize.escapes import html_escapes, markup, program_escapes, quoted_printable, url_escapes
from guardrail.normalize.hidden import hidden, invisible, marked, turned
from guardrail.normalize.lookalikes import compatible, confusable, flagged
from guardrail.normalize.offsets import DEADLINE, Step, in_time
from guardrail.normalize.spelling import leet, otherwise, spaced
from guardrail.normalize.turned_codes import backwards, rotated_codes
from guardrail.types import ReadingLimits, Span

Undo = Callable[[str], Step | None]

# Cheapest first. What is certain (a character stands for another one) before what is likely (a spelling that reads better otherwise):
# a code must be undone before its digits are taken for letters, or for those of another code.
_UNICODE: tuple[Undo, ...] = (turned, invisible, marked, compatible, flagged, confusable)
_CODES: tuple[Undo, ...] = (
    *(rotated_codes, backwards, markup, html_escapes, url_escapes, quoted_printable, program_escapes),
    *(binary, hexadecimal, decimal, base32, base64_),
)
_SPELLINGS: tuple[Undo, ...] = (spaced, otherwise, leet)

# What codes and digits for letters are made of. Plain prose has none of it, and is done with after this one look.
_CODE_SIGNS = frozenset("0123456789%&\\@$|=+/_<")
_CODED = re.compile(r"[A-Z](?:[A-Z]{3}|(?<=[a-z].))|!(?=[A-Za-z])")
_LONG_WORD = 24


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read a text. `steps` lead from the raw text to `text`; none for the raw text itself."""

    text: str
    steps: tuple[Step, ...] = ()

    @property
    def trace(self) -> tuple[str, ...]:
        """The names of what was undone, in order: hidden, bidi, invisible, marks, compatibility, confusables, markup, html, url,
        quoted-printable, escapes, binary, hex, decimal, base32, base64 (reversed, rot13), spacing, rot13, reversed, rot13 reversed,
        leetspeak."""
        return tuple(step.name for step in self.steps)

    @property
    def touched(self) -> Span:
        """From the first to the last character of the raw text that is read otherwise; empty for the raw text."""
        spans = [self._back(step.touched, self.steps[:place]) for place, step in enumerate(self.steps)]
        return Span(min(span.start for span in spans), max(span.end for span in spans)) if spans else Span(0, 0)

    def raw(self, span: Span) -> Span:
        """The span of the raw text that a span of this reading stands for. A decoded stretch counts whole."""
        return self._back(span, self.steps)

    @staticmethod
    def _back(span: Span, steps: tuple[Step, ...]) -> Span:
        for step in reversed(steps):
            span = step.back(span)
        return span


@dataclass(frozen=True, slots=True)
class Readings:
    """The raw text first, then each distinct reading in the order in which it was found.

    `truncated` names the limits that left something unread (`characters`, `depth`, `readings`): empty when all was looked at.
    """

    found: tuple[Reading, ...]
    truncated: tuple[str, ...] = ()


def readings(text: str, *, limits: ReadingLimits, deadline: float = math.inf) -> Readings:
    """Every distinct way to read a text, within the limits. Has no state, and costs time linear in the text.

    Raises nothing but TimeoutError, once `deadline` (a `time.monotonic()` instant) is past.

    All codes in it are looked into, however many: behind decoys one that was left out would be hidden. `deadline` bounds what that costs.
    Disguises are undone one upon the other, where they stand, so that many of them still make few readings: one with all that is
    certainly a spelling of something else undone, and one more for each kind that is only likely to be.
    """
    raw = Reading(text)
    if not text or text.isspace():
        return Readings((raw,))
    if len(text) > limits.characters:
        return Readings((raw,), ("characters",))
    before = DEADLINE.set(deadline)
    try:
        return _Undoing(raw, limits).all()
    finally:
        DEADLINE.reset(before)


class _Undoing:
    """The readings of one text as they are found."""

    def __init__(self, raw: Reading, limits: ReadingLimits) -> None:
        self._limits = limits
        self._found = [raw]
        self._now = raw
        self._seen = {raw.text}
        self._looked = ""
        self._coded = False
        self._undone: Counter[Undo] = Counter()
        self._cut: set[str] = set()

    def all(self) -> Readings:
        while self._certain() or self._likely():
            pass
        self._keep()
        return Readings(tuple(self._found), tuple(sorted(self._cut)))

    def _certain(self) -> bool:
        """Undo all characters and codes once; whether anything was, and may be undone further."""
        text = self._now.text
        undoing = () if text.isascii() else _UNICODE
        undoing += _CODES if self._is_coded() else ()
        if not text.isascii() and self._undo(hidden):
            return True  # there may be another message in it, of characters that are removed next
        return sum(self._undo(undo) for undo in undoing) > 0

    def _likely(self) -> bool:
        """Undo one spelling, and keep what it was before as a reading of its own."""
        before = self._now
        spellings = _SPELLINGS if self._is_coded() else _SPELLINGS[:-1]
        if not any(self._undo(undo) for undo in spellings):
            return False
        after, self._now = self._now, before
        self._keep()
        self._now = after
        return True

    def _is_coded(self) -> bool:
        """Whether there may be codes in it; looked at once for each text."""
        text = self._now.text
        if self._looked != text:
            self._looked = text
            self._coded = not _CODE_SIGNS.isdisjoint(text) or _CODED.search(text) is not None
            self._coded = self._coded or max(map(len, text.split()), default=0) >= _LONG_WORD
        return self._coded

    def _undo(self, undo: Undo) -> bool:
        in_time()
        step = undo(self._now.text)
        if step is None or step.text in self._seen:
            return False
        again = undo is otherwise and self._now.trace[-1:] == (step.name,)  # it reads as badly both ways, and would be turned for ever
        # Each kind has its own depth: what is nested deeply uses up nothing that another disguise beside it would need.
        if again or self._undone[undo] >= self._limits.depth:
            self._cut.add("depth")
            return False
        if len(step.text) > self._limits.characters:
            self._cut.add("characters")
            return False
        self._now = Reading(step.text, (*self._now.steps, step))
        self._seen.add(step.text)
        self._undone[undo] += 1
        return True

    def _keep(self) -> None:
        """One more reading; beyond the limits the last one takes the place of the one before it, since it is the plainest."""
        if any(self._now.text == known.text for known in self._found):
            return
        spent = sum(len(reading.text) for reading in self._found[1:])
        if len(self._found) < self._limits.readings and spent + len(self._now.text) <= self._limits.characters:
            self._found.append(self._now)
            return
        self._cut.add("readings")
        if len(self._found) > 1:
            self._found[-1] = self._now
