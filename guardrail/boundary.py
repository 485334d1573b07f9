"""Where a growing text may be cut, whatever comes next: never inside a code point, a grapheme cluster or a word."""

from collections.abc import Iterator

import regex

LONGEST_WORD = 64
"""Characters after which a run without a gap is no word any more (base64, a script without spaces) and is cut between clusters."""

# White space, and what ends a clause in scripts that write without spaces.
_LAST_GAP = regex.compile(r"(?r)[\s\u3001\u3002\uff01\uff0c\uff0e\uff1a\uff1b\uff1f\u300c-\u300f\u061f\u0964\u17d4\u104a\u104b]")
_CLUSTER = regex.compile(r"\X")
_BLOCK = 256
_SURROGATE = regex.compile(r"[\ud800-\udfff]")


def last_boundary(text: str, anchor: int, low: int, high: int) -> int | None:
    """The last place in (low, high] where `text` may be cut, or None where that must wait for more text.

    `anchor` <= `low` is a place known to be a boundary (0, or one found before) and `high` < len(text), since the character behind a cut
    decides whether it is one. A cut lies beside a gap between words; within a run of `LONGEST_WORD` characters without one it lies
    between two grapheme clusters (Unicode's UAX #29, as the `regex` package reads it).
    """
    if high <= low:
        return None
    floor = max(anchor, high - LONGEST_WORD)
    end = high + 1
    while (gap := _LAST_GAP.search(text, floor, end)) is not None:
        end = gap.start()
        for place in (end + 1, end):
            if anchor < place <= high and _apart(text, place):
                return place if place > low else None
    if floor == anchor:
        return None
    place = cluster_start(text, anchor, high)
    return place if place > low else None


def cluster_start(text: str, anchor: int, place: int) -> int:
    """The last boundary between grapheme clusters at or before `place`, counted from the boundary `anchor`."""
    if anchor < place < len(text) and text[place - 1 : place + 1].isascii() and _apart(text, place):
        return place
    start = anchor
    for end in _cluster_ends(text, anchor):
        if end > place:
            break
        start = end
    return start


def cluster_end(text: str, anchor: int, place: int) -> int:
    """The first boundary between grapheme clusters at or behind `place`, counted from the boundary `anchor`."""
    found = anchor
    for end in _cluster_ends(text, anchor):
        if found >= place:
            break
        found = end
    return found


def whole_code_points(text: str) -> tuple[str, str]:
    """`text` with halves of code points (surrogates, as JSON escapes them) joined, and the first half at its end that waits for its other.

    Halves that belong to nothing stay as they are.
    """
    if text.isascii() or _SURROGATE.search(text) is None:
        return text, ""
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return (joined[:-1], joined[-1]) if "\ud800" <= joined[-1] <= "\udbff" else (joined, "")


def _cluster_ends(text: str, start: int) -> Iterator[int]:
    """Where the clusters behind a boundary end. In blocks: `regex` looks back over a whole run of flags for each of them."""
    size = _BLOCK
    while start < len(text):
        block = text[start : start + size]
        ends = [start + cluster.end() for cluster in _CLUSTER.finditer(block)]
        if start + size < len(text):
            ends.pop()  # it may go on behind the block
        size = _BLOCK if ends else 2 * size
        yield from ends
        start = ends[-1] if ends else start


def _apart(text: str, place: int) -> bool:
    """Whether the two characters around `place`, one of which is a gap or both of which are ASCII, belong to two clusters."""
    pair = text[place - 1 : place + 1]
    if pair.isascii():
        return pair != "\r\n"
    cluster = _CLUSTER.match(pair)
    return cluster is not None and cluster.end() == 1
