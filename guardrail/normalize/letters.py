"""How English a text looks by its neighbouring letters alone: small, deterministic, and the same on every machine."""

import codecs
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Row: a letter (first row: no letter); column: the one that follows. `M` is as likely as chance (1 in 27), each letter of the alphabet
# above or below it a third of a nat more or less. Counted on this package's own English (policies, documents, training texts: 589,122
# characters), case aside; everything but a to z counts as no letter.
_ROWS = """
MPMNMLMLMOGHLMLOMELOQIHOAKA PAMNLAILAMAKOLQAKAPOQIJHEMA MPHBASAABNKAPCARAAOJFPAAANA KPAJAPAAQMAONAASAAMHPLBAAKA TNDAKRBIAPAAIEFPBALMBKHAALA
SNFLNLIHCHADMKPIJFPPMCKIMHA SNAAAONAAQAALAARAAODMNAAAGA TOBAARAJONAAJAKNDAPLDNAAAGA PREABTAAAPAADCEQAAKFLJAAAKA OIHOMMLMAAAHNLSOIALPQALAEAC
IODAASDAAIADDAARFAAMATAAAAA SGAAFTEECQAAGGMDEACQBFABAHA RPDDNRJCAQAIPHBOJACLLLECANA QQLAASDAAOAAHLFPNACLBKABAPA SLALPOFPAMFIIAHNBAANRIGAAJA
PGIILINHAIAJMNRLMAQKNQKNEEA QPAAARBALNAAQAAQMAPLMMAAAIA KFBBBBFBBBBBKBBBBBBBFWBFBBB SOEHMRBIBPAJHLJPEAJOMLICAMA TMBKAPABMNAJIGFMJBAMQLAIAGA
SMAFAQAASOAAGBCOCALMJIAHAJA PMKMNMEMAKABPMPFNAQPQAAAAFA JNAABVAAARAABAAMAAADAGAAAEA QPAAFPGARRAAFAMQAANLAAAAABA QOAOALAAEMAAACAERAAFSPAADHA
VGGCELCAAIAAEHFRIAGNJAADAAA PPEIETEEEPEELEEPEEIIIIEEINP
"""

Table = NDArray[np.float32]

_PLAIN: Table = ((np.array([[ord(sign) for sign in row] for row in _ROWS.split()]) - ord("M")) / 3).astype(np.float32)
_ROTATED_LETTERS = np.array([0, *(((letter + 13) % 26) + 1 for letter in range(26))])
_SYMBOLS = np.zeros(256, dtype=np.uint8)
for _letter in range(26):
    _SYMBOLS[ord("a") + _letter] = _SYMBOLS[ord("A") + _letter] = _letter + 1

_NATS: list[list[float]] = _PLAIN.tolist()
_NUMBERS = {chr(code): int(symbol) for code, symbol in enumerate(_SYMBOLS) if symbol}

# Keys, hashes and codes: rows of hexadecimal digits with figures in them, and long words with figures in them.
_CODE = re.compile(r"(?<![A-Za-z0-9])(?=[A-Za-z]*[0-9])(?:[0-9A-Fa-f]+|[A-Za-z0-9+/_=-]{16,})(?![A-Za-z0-9])")
_HEX = re.compile("[0-9A-Fa-f]+")

_LINE = re.compile(r"[^\r\n]+")

_SHORT = 48  # characters up to which plain Python is quicker than an array
_DRIFT = 0.05  # nats a character that a disguise must win by, so that what looks like neither never adds up
_CLEAR = 10.0  # nats by which a stretch must be likelier read otherwise, more in longer texts: chance has more places there
_FEWEST = 7  # characters: fewer never gain so much
_BETTER = 1.0  # nats by which the rest of a line, or a line next to it, must be likelier read otherwise
LIKELY = 0.3  # nats a letter from which a text looks English; plain English has about 0.9


def _gain(other: Table) -> Table:
    gain: Table = other - np.maximum(_PLAIN, 0) - _DRIFT
    gain[0, 0] = 0
    return gain


ROTATED: Table = _gain(_PLAIN[_ROTATED_LETTERS][:, _ROTATED_LETTERS]).ravel()
"""What each pair of letters gains by being read as rot13, in nats."""
REVERSED: Table = _gain(_PLAIN.T).ravel()
"""What each pair of letters gains by being read from right to left, in nats."""
BOTH: Table = _gain(_PLAIN[_ROTATED_LETTERS][:, _ROTATED_LETTERS].T).ravel()
"""What each pair of letters gains by being read as rot13 from right to left, in nats."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """`nats` in all that a text is likelier as English than as chance, over `letters` letters."""

    nats: float
    letters: int

    @property
    def rate(self) -> float:
        """Nats a letter; 0 for a text without letters."""
        return self.nats / self.letters if self.letters else 0.0


def likeness(text: str) -> Likeness:
    """How English the ASCII letters of a text are. Linear; some nanoseconds a character."""
    if len(text) <= _SHORT:
        return _short_likeness(text)
    symbols = _symbols(text)
    return Likeness(float(_PLAIN[symbols[:-1], symbols[1:]].sum()), int(np.count_nonzero(symbols)))


def _short_likeness(text: str) -> Likeness:
    nats, letters, before = 0.0, 0, 0
    for sign in text:
        symbol = _NUMBERS.get(sign, 0)
        nats += _NATS[before][symbol]
        letters += symbol > 0
        before = symbol
    return Likeness(nats + _NATS[before][0], letters)


def stretches(text: str, gain: Table) -> list[tuple[int, int]]:
    """The stretches of a text that `gain` (ROTATED, REVERSED or BOTH) reads as English and that are not English as they stand.

    [start, end) in characters, in order, apart from one another, extended to whole words. How clear it must be grows with the
    logarithm of the length, so that long random text has no more of them than short one.
    """
    return all_stretches(text, (gain,))[0]


def all_stretches(text: str, tables: Sequence[Table]) -> list[list[tuple[int, int]]]:
    """The stretches by each of several tables, for little more than those by one."""
    if len(text) < _FEWEST:
        return [[] for _ in tables]
    symbols = _symbols(text).astype(np.intp)
    pairs = symbols[:-1] * 27 + symbols[1:]
    clear = _CLEAR + math.log1p(len(text) / 100)
    found: list[list[tuple[int, int]]] = []
    for gain in tables:
        gains = gain[pairs]
        total = np.cumsum(gains, dtype=np.float64)
        lowest = np.minimum(np.minimum.accumulate(total), 0.0)
        if (total - lowest).max() < clear:
            found.append([])
        elif (words_alone := without_codes(text, gain)) != text:
            found.append(stretches(words_alone, gain))
        else:
            found.append(_by_line(text, list(_in_words(text, _risen(gains.tolist(), clear))), gain))
    return found


def turned(text: str, gain: Table) -> str:
    """A text read as `gain` says, all of it."""
    if gain is not REVERSED:
        text = codecs.encode(text, "rot13")
    return text if gain is ROTATED else text[::-1]


def without_codes(text: str, gain: Table) -> str:
    """The text with `#` for keys, hashes and other codes: pieces of them look like anything."""
    return _CODE.sub(lambda match: match[0] if _hides_words(match[0], gain) else "#" * len(match[0]), text)


def _hides_words(code: str, gain: Table) -> bool:
    """Whether all of a word with figures in it is English when it is read otherwise: in random ones chance makes but a piece look so."""
    if _HEX.fullmatch(code):
        return False  # the few words that can be spelled with a to f are none as rot13, and hardly any from right to left
    return likeness(turned(code, gain)).rate > LIKELY


def _by_line(text: str, spans: list[tuple[int, int]], gain: Table) -> list[tuple[int, int]]:
    """The spans cut at the ends of lines. Where they are half of a line, or its rest reads better so, the line; and those next to it."""
    lines = [match.span() for match in _LINE.finditer(text)]
    inside = list(_cut(lines, spans))
    whole = [
        bool(some) and (2 * sum(end - start for start, end in some) >= line[1] - line[0] or _reads_better(_rest(text, line, some), gain))
        for line, some in zip(lines, inside, strict=True)
    ]
    for step, places in ((-1, range(1, len(lines))), (1, range(len(lines) - 2, -1, -1))):
        for place in places:
            if whole[place + step] and not inside[place]:
                whole[place] = whole[place] or _reads_better(text[slice(*lines[place])], gain)
    return [piece for line, some, all_ in zip(lines, inside, whole, strict=True) for piece in ([line] if all_ else some)]


def _cut(lines: list[tuple[int, int]], spans: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """What of the spans each line holds."""
    place = 0
    for first, last in lines:
        while place < len(spans) and spans[place][1] <= first:
            place += 1
        some = place
        while place < len(spans) and spans[place][1] < last:
            place += 1
        pieces = [(max(start, first), min(end, last)) for start, end in spans[some : place + 1]]
        yield [(start, end) for start, end in pieces if start < end]


def _rest(text: str, line: tuple[int, int], inside: list[tuple[int, int]]) -> str:
    """What of a line is beside its spans."""
    edges = [line[0], *chain.from_iterable(inside), line[1]]
    return "#".join(text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True))


def _reads_better(text: str, gain: Table) -> bool:
    return likeness(turned(text, gain)).nats > likeness(text).nats + _BETTER


def _risen(gains: list[float], clear: float) -> list[tuple[int, int]]:
    """Where the running sum rises, each from its lowest to its highest point: one by `clear` is known to be there, the others need less."""
    enough = clear / 3
    found: list[tuple[int, int]] = []
    running = highest = 0.0
    start = end = 0
    for place, gain in enumerate(gains):
        running += gain
        if running > highest:
            highest, end = running, place
        if running <= 0.0 or highest - running > clear:
            if highest >= enough:
                found.append((start, end))
            running = highest = 0.0
            start = end = place
    if highest >= enough:
        found.append((start, end))
    return found


def _in_words(text: str, spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """From the start of a word to the end of one, apart from one another. Not of a word in the line before: there the sum fell."""
    done = 0
    for start, end in spans:
        start = max(start, done)
        while start > done and text[start] != "\n" and not text[start - 1].isspace():
            start -= 1
        while start < end and text[start].isspace():
            start += 1
        if start < end:
            while end < len(text) and not text[end].isspace():
                end += 1
            while text[end - 1].isspace():
                end -= 1
            yield start, end
            done = end


def _symbols(text: str) -> NDArray[np.uint8]:
    """Each character as a letter's number, 0 for anything else, and a 0 at either end."""
    octets: NDArray[Any] = np.frombuffer(text.encode("ascii", "replace"), dtype=np.uint8)
    symbols = np.zeros(len(octets) + 2, dtype=np.uint8)
    symbols[1:-1] = _SYMBOLS[octets]
    return symbols
