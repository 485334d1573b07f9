"""Words spelled so that only a reader knows them: letters apart, digits for letters, the alphabet shifted by half, backwards."""

import codecs
import re
from bisect import bisect_right
from collections.abc import Iterator
from operator import itemgetter

from guardrail.normalize.letters import BOTH, LIKELY, REVERSED, ROTATED, Table, all_stretches, likeness, stretches, turned, without_codes
from guardrail.normalize.offsets import Edit, Step, respelled, rewritten

_SIGN = r"[A-Za-z0-9@$!](?![A-Za-z0-9@$])"
_SPACED = re.compile(
    rf"(?<![A-Za-z0-9@$])(?:{_SIGN} (?={_SIGN}))+{_SIGN}(?:(?: {{2,8}}|\s*[\n\t/|]\s{{0,8}}){_SIGN}(?: {_SIGN})*)*"
    rf"|(?<![A-Za-z0-9@$]){_SIGN}([.\-_*|/,~+·•\n])(?:{_SIGN}\1)*{_SIGN}(?: {{1,8}}{_SIGN}(?:\1{_SIGN})*)*"
)
_WORD = re.compile(r"[^ \r\n]+")
_GAP = re.compile(r"\s{2,}|\s*[\n\t/|]\s*")
_ALONE = re.compile(r"(?<=[A-Za-z0-9@$!])[.\-_*|/,~+·•\n ](?=[A-Za-z0-9@$!])")
_FEWEST = 4  # letters apart that make a word; three are an abbreviation

_LETTERS = tuple(str.maketrans("01345789@$!|", f"o{one}eastbgas{one}{one}") for one in "il")
_ROTATED_LETTERS = {figure: ord(codecs.encode(chr(letter), "rot13")) for figure, letter in _LETTERS[0].items()}
_FIGURE = re.compile(r"(?<=[A-Za-z'])[013457@$]|[013457@$](?=[A-Za-z'])")
_TURNS = (("rot13", ROTATED), ("reversed", REVERSED), ("rot13 reversed", BOTH))
_FEW_FIGURES = 3  # words with figures for letters that a sentence spelled so has at least
_ENOUGH = 2  # words that are surely spelled with digits: then the doubtful ones are, too
_LEET = re.compile(r"(?<![A-Za-z0-9@$!|/+=_-])[A-Za-z0-9@$!|]{1,24}(?![A-Za-z0-9@$|/+=_-])")
_LIKE_LEET = re.compile(r"[A-Za-z][013457$@!|]+[A-Za-z]|(?<![A-Za-z0-9])[013457$@][A-Za-z]{2}")
_UNITS = re.compile(
    r"\d*1st|\d*2nd|\d*3rd|\d+(?:th|s|k|m|b|g|x|kg|km|cm|mm|ml|mb|gb|tb|am|pm|min|sec|hrs?|bit|fps|hz|ghz|mhz|px|pt|rem|em)", re.IGNORECASE
)


def spaced(text: str) -> Step | None:
    """Words whose letters stand apart (`w o r d`, `w.o.r.d`), joined. Where the gaps between words are wider they stay gaps."""
    return rewritten("spacing", text, _joined(text))


def otherwise(text: str) -> Step | None:
    """Stretches that are English as rot13, from right to left, or both, and are not as they stand."""
    told = all_stretches(text, [gain for _, gain in _TURNS])
    for (name, gain), found in zip(_TURNS, told, strict=True):
        rivals = [others for others in told if others and others is not found]
        if clearest := [stretch for stretch in found if not any(_is_longer_in(others, stretch) for others in rivals)]:
            return _turned(name, text, gain, clearest)
    if len(_LIKE_LEET.findall(text)) >= _FEW_FIGURES:  # figures for letters hide which letters are neighbours
        for name, gain in _TURNS:
            words = without_codes(text, gain)
            tables = (_LETTERS[0],) if gain is REVERSED else (_ROTATED_LETTERS, _LETTERS[0])
            if found := next(filter(None, (stretches(_lettered(words, table), gain) for table in tables)), []):
                return _turned(name, text, gain, found)
    return None


def leet(text: str) -> Step | None:
    """Words with digits and signs for letters (`w0rd`) with the letters, where they look more like words then."""
    if not _LIKE_LEET.search(text):
        return None
    words = [(match.start(), match[0].rstrip("!|")) for match in _LEET.finditer(text)]
    words = [(start, word) for start, word in words if word and not word.isalpha()]
    plain = max((_all_unleeted([word for _, word in words], table) for table in _LETTERS), key=lambda told: likeness(" ".join(told)).nats)
    pieces, done = [], 0
    for (start, word), instead in zip(words, plain, strict=True):
        pieces += [text[done:start], instead]
        done = start + len(word)
    return respelled("leetspeak", text, "".join([*pieces, text[done:]]))


def _turned(name: str, text: str, gain: Table, found: list[tuple[int, int]]) -> Step | None:
    """The stretches turned. Figures in them stand for letters of the plain words, or of the turned ones: as makes the better English."""
    found = found if gain is ROTATED else _together(text, found)
    read = [_read(text[start:end], gain) for start, end in found]
    if gain is not REVERSED and _LIKE_LEET.search(text):
        figures_first = [_read(_lettered(text[start:end], _LETTERS[0]), gain) for start, end in found]
        if _nats(figures_first) > _nats([_lettered(stretch, _LETTERS[0]) for stretch in read]):
            name, read = f"leetspeak {name}", figures_first
    return rewritten(name, text, ((start, end, instead) for (start, end), instead in zip(found, read, strict=True)))


def _is_longer_in(others: list[tuple[int, int]], stretch: tuple[int, int]) -> bool:
    """Whether one of the others goes over a part of it and is longer: pieces of what is read in one way may look like another."""
    start, end = stretch
    for place in range(bisect_right(others, start, key=itemgetter(1)), len(others)):
        if others[place][0] >= end:
            break
        if others[place][1] - others[place][0] > end - start:
            return True
    return False


def _together(text: str, found: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The stretches, those as one that follow upon one another: what is read from its end begins in the last line."""
    joined: list[tuple[int, int]] = []
    for start, end in found:
        if joined and not text[joined[-1][1] : start].strip():
            start = joined.pop()[0]
        joined.append((start, end))
    return joined


def _nats(texts: list[str]) -> float:
    return sum(likeness(text).nats for text in texts)


def _read(stretch: str, gain: Table) -> str:
    return turned(stretch, ROTATED) if gain is ROTATED else _forwards(stretch if gain is REVERSED else turned(stretch, ROTATED))


def _lettered(text: str, table: dict[int, int]) -> str:
    """The text with letters for figures within words."""
    return _FIGURE.sub(lambda match: match[0].translate(table), text)


def _forwards(backwards: str) -> str:
    """The whole from its end, or each word for itself where most lines end as a sentence does, and not as one begins."""
    last = [words[-1] for line in backwards.splitlines() if len(words := line.split()) > 1]
    ends = [any(sign in ".!?" for sign in word) and not word[::-1].istitle() for word in last]
    if 2 * sum(ends) > len(ends):
        return _WORD.sub(lambda match: match[0][::-1], backwards)
    return backwards[::-1]


def _joined(text: str) -> Iterator[Edit]:
    for match in _SPACED.finditer(text):
        mark = match[1]
        words = [_ALONE.sub("", word) for word in (match[0].split(" ") if mark else _GAP.split(match[0]))]
        words = [word for word in words if word]
        letters = sum(map(len, words))
        said = " ".join(words)
        step = leet(said)
        plain = step.text if step else said
        english = likeness(plain).rate > (0.0 if letters > 5 else LIKELY)
        if letters >= _FEWEST and (english or (letters > 5 and any(likeness(turned(plain, gain)).rate > LIKELY for _, gain in _TURNS))):
            yield *match.span(), said


def _all_unleeted(words: list[str], table: dict[int, int]) -> list[str]:
    """All words by one table: who writes 1 for i does so throughout."""
    plain = [_unleeted(word, word.translate(table), doubtful=False) for word in words]
    if sum(map(str.__ne__, plain, words)) >= _ENOUGH:
        plain = [_unleeted(word, word.translate(table), doubtful=True) for word in words]
    return plain


def _unleeted(word: str, best: str, *, doubtful: bool) -> str:
    """The word with letters, `best`, or as it stands: a number, a unit, a name of a version, or nothing that could be a word."""
    if _UNITS.fullmatch(word) or not best.isalpha() or (word.isdecimal() and len(word) > 3):
        return word
    if not doubtful and (len(word) < 3 or sum(map(str.isalpha, word)) * 2 < len(word) - 1 or not _LIKE_LEET.search(word)):
        return word
    like = likeness(best)
    if doubtful:
        return best if like.nats > 0 or (len(word) == 1 and best == "a") else word
    return best if like.rate >= LIKELY and like.letters >= 3 else word
