"""Streamed answers to try the stream guard with: texts of every script, cut and interleaved at random, and what is wrong in them."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import regex

from guardrail.boundary import LONGEST_WORD, whole_code_points
from guardrail.types import Action, Span, Streaming, StreamMode
from guardrail.window import Bounds, StreamPart

# What the scripted classifier objects to: as words of their own, or wherever the letters stand together.
BAD = ("melon", "sour grape", "plum tree in bloom", "日本のりんご", "früchte")
LONGEST_BAD = max(map(len, BAD))
_AS_WORDS = re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in BAD))
_ANYWHERE = re.compile("|".join(map(re.escape, BAD)))

_PIECES = (
    *("melon", "melons", "mel", "on", "watermelon", "sour", "grape", "sour grape", "grapes", "plum tree", "in bloom", "plum tree in bloom"),
    *("früchte", "fru\u0308chte", "früchtebrot", "日本の", "りんご", "日本のりんご", "、", "。"),
    *("the", "a", "calm", "report", "of", "Tuesday", "x"),
    *(" ", " ", " ", " ", " ", " ", "\n", "\r\n", "\t", "\u00a0", "\u200b", "\u200d", ".", ", ", "-", "e\u0301", "\u0301", "o\u0308\u0323"),
    *("\ud83d", "\ude00", "👨\u200d👩\u200d👧", "👍🏽", "🇩🇪🇫🇷", "🇩", "❤\ufe0f", "क्षि", "กำลัง"),
    *("한글", "\u1112\u1161\u11ab", "مرحبا", "\u0600"),
)  # fmt: skip
_PARTS = tuple(StreamPart(choice, path, path == "call") for choice in range(3) for path in ("content", "reasoning", "call"))
_CLUSTER = regex.compile(r"\X")
_GAP = regex.compile(r"[\s\u3001\u3002]")


@dataclass(frozen=True)
class Text:
    """One part's whole text. `as_words`: the classifier objects to words of their own only."""

    text: str
    as_words: bool

    @cached_property
    def first(self) -> Span | None:
        """The first thing in it that the classifier objects to."""
        found = self.pattern.search(self.text)
        return None if found is None else Span(*found.span())

    @property
    def pattern(self) -> re.Pattern[str]:
        """The classifier."""
        return _AS_WORDS if self.as_words else _ANYWHERE

    @cached_property
    def clusters(self) -> frozenset[int]:
        """Where grapheme clusters begin, and the end."""
        return frozenset({0, len(self.text), *(cluster.end() for cluster in _CLUSTER.finditer(self.text))})

    def within_word(self, place: int) -> bool:
        """Whether a word shorter than `LONGEST_WORD` has characters on both sides of a place."""
        start = next((at for at in range(place, max(0, place - LONGEST_WORD), -1) if _GAP.match(self.text[at - 1])), 0)
        if place - start >= LONGEST_WORD:
            return False
        gap = _GAP.search(self.text, place)
        end = gap.start() if gap else len(self.text)
        return start < place < end and end - start < LONGEST_WORD


@dataclass(frozen=True)
class Case:
    """One answer in one chunking: the parts with their texts, and the pieces, each of one part, as they come.

    `action` is what the classifier's policy asks for. `order` seeds what happens between the pieces: how time passes, and in which order
    verdicts come in.
    """

    streaming: Streaming
    bounds: Bounds
    action: Action
    as_words: bool
    parts: tuple[StreamPart, ...]
    pieces: tuple[tuple[int, str], ...]
    order: int

    @property
    def size(self) -> int:
        """What there is to read in it, for whoever looks for its fault."""
        return len(self.pieces) + sum(len(text) for _, text in self.pieces)

    def texts(self) -> list[Text]:
        """What is produced of each part."""
        return [
            Text("".join(whole_code_points("".join(text for number, text in self.pieces if number == place))), self.as_words)
            for place in range(len(self.parts))
        ]


class Cases:
    """An endless supply, the same for the same seed. Texts are reused in many chunkings; one in `long_every` cases is a long one."""

    def __init__(self, seed: int, *, long_every: int = 256) -> None:
        self._random = random.Random(seed)  # noqa: S311  (nothing secret)
        self._long_every = long_every
        self._short = [self._text(self._random.randint(1, 12)) for _ in range(512)]
        self._long = [self._text(self._random.randint(300, 3_000), calm=True) for _ in range(24)]
        self._count = 0

    def next(self) -> Case:
        """One more."""
        chance = self._random
        self._count += 1
        long = self._count % self._long_every == 0
        pool = self._long if long else self._short
        as_words = chance.random() < 0.5
        mode = chance.choice(tuple(StreamMode))
        overlap = chance.choice((0, 1, 5, LONGEST_BAD - 1, LONGEST_BAD, 40))
        streaming = Streaming(
            mode, chance.choice((50, 200, 400) if long else (1, 2, 4, 10, 30)), overlap, first_s=chance.choice((0.1, 1.0))
        )
        bounds = Bounds(
            withheld=chance.choice((8, 40, 10_000)) if chance.random() < 0.1 else 10**6,
            growth=chance.choice((0.0, 0.25, 1.0)),
            ahead=chance.randint(1, 4),
        )
        action = Action.REDACT if mode is not StreamMode.WATCH and chance.random() < 0.25 else Action.BLOCK
        parts = self._parts()
        queues = [self._pieces(chance.choice(pool), average=chance.choice((1, 3, 30)) * (20 if long else 1)) for _ in parts]
        return Case(streaming, bounds, action, as_words, parts, self._interleaved(queues), chance.getrandbits(32))

    def _text(self, pieces: int, *, calm: bool = False) -> str:
        words = _PIECES if not calm or self._random.random() < 0.5 else _PIECES[18:]
        return "".join(self._random.choice(words) + (" " if calm else "") for _ in range(pieces))

    def _parts(self) -> tuple[StreamPart, ...]:
        if self._random.random() < 0.6:
            return _PARTS[:1]
        return tuple(self._random.sample(_PARTS, self._random.randint(2, 3)))

    def _pieces(self, text: str, *, average: int) -> list[str]:
        """A text in pieces, some of which end within a code point."""
        chance = self._random
        if not text.isascii() and chance.random() < 0.2:
            units = text.encode("utf-16-le", "surrogatepass")
            text = "".join(chr(int.from_bytes(units[at : at + 2], "little")) for at in range(0, len(units), 2))
        pieces, start = [], 0
        while start < len(text):
            end = start + (1 if average == 1 else 1 + int(chance.random() * 2 * average))
            pieces.append(text[start:end])
            start = end
        return pieces

    def _interleaved(self, queues: Sequence[list[str]]) -> tuple[tuple[int, str], ...]:
        if len(queues) == 1:
            return tuple((0, piece) for piece in queues[0])
        turns = [number for number, queue in enumerate(queues) for _ in queue]
        if self._random.random() < 0.8:
            self._random.shuffle(turns)
        left = [iter(queue) for queue in queues]
        return tuple((number, next(left[number])) for number in turns)


def smaller(case: Case) -> list[Case]:
    """Cases with a little less in them, those with much less first, to find what is needed for a fault."""
    found = []
    pieces = case.pieces
    step = len(pieces)
    while step := step // 2:
        found += [replace(case, pieces=pieces[:at] + pieces[at + step :]) for at in range(0, len(pieces), step)]
    for at, (number, text) in enumerate(pieces):
        step = len(text)
        while step := step // 2:
            found += [
                replace(case, pieces=(*pieces[:at], (number, text[:cut] + text[cut + step :]), *pieces[at + 1 :]))
                for cut in range(0, len(text), step)
            ]
    return found
