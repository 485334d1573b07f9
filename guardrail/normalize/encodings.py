"""Text spelled as data: base64, base32, hexadecimal, binary and decimal numbers. Undone only where text comes out: keys and images stay."""

import base64
import binascii
import codecs
import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

from guardrail.normalize.escapes import html_escapes, program_escapes, url_escapes
from guardrail.normalize.hidden import hidden, invisible, marked, turned
from guardrail.normalize.letters import BOTH, LIKELY, REVERSED, ROTATED, all_stretches, likeness
from guardrail.normalize.lookalikes import compatible, confusable
from guardrail.normalize.offsets import Edit, Step, in_time, rewritten
from guardrail.normalize.spelling import leet, spaced

# Behind `name=` as anywhere; what is padded ends with that, whatever comes next.
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/_-])={0,2}[A-Za-z0-9+/_-]{8,}(?:\r?\n[A-Za-z0-9+/_-]{8,})*(?:={1,2}|(?![A-Za-z0-9+/_=-]))")
_BASE32 = re.compile(r"(?<![A-Za-z0-9])[A-Z2-7]{16,}(?:={1,6}|(?![A-Za-z0-9=]))")
_HEX = re.compile(r"(?<![A-Za-z0-9])(?:0x)?[0-9a-fA-F]{2}(?:(?:[ :,;-]|, |\\x| 0x|, ?0x)?[0-9a-fA-F]{2}){3,}(?![A-Za-z0-9])")
_BINARY = re.compile(r"(?<![A-Za-z0-9])[01]{8}(?:[ ,]?[01]{8}){3,}(?![A-Za-z0-9])")
_ASCII_NUMBER = r"0?(?:9|1[03]|3[2-9]|[4-9]\d|1[01]\d|12[0-6])"
_DECIMAL = re.compile(rf"(?<![\w.]){_ASCII_NUMBER}(?:[ ,;/|]{{1,3}}{_ASCII_NUMBER}(?![\w])){{9,}}")
_SEPARATORS = re.compile(r"0x|\\x|[ :,;-]")
_FIGURES = re.compile("[0-9]+")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ue000-\uf8ff\ufdd0-\ufdef\ufffe\uffff]")
_PROBE = 64  # characters of a long one that are tried before the whole of it
_SHARE = 0.75  # of what comes out must be letters and spaces
_WINDOW = 256  # characters that are one thing; in longer texts it is enough that one place reads, so that junk around it hides nothing
_STEP = 24
_GAP = 12  # signs for one space, at most
_NESTED = 16  # layers that are looked through to find text, each smaller than the one around it
# Octets that are text between others that are none. Of random ones hardly any so many in a row are, more of them beyond ASCII.
_LEAST = 20
_ASCII = re.compile(rb"[\t\n\r\x20-\x7e]")
_TEXT = re.compile(rb"(?:[\t\n\r\x20-\x7e]|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}){20,}")
_SALVAGED = 2  # layers within those that are looked through: what is salvaged is not salvaged from again, so that the work stays small
_SURE = 8.0  # nats that a text beside junk is likelier than chance, at least: about ten letters of plain English
_JUNK = 0.2  # of the octets may be none, for all of them to be one text


def hexadecimal(text: str) -> Step | None:
    """Runs of hexadecimal octets as the text they spell."""
    return rewritten("hex", text, _edits(_HEX, text, _from_hex))


def binary(text: str) -> Step | None:
    """Runs of octets in binary digits as the text they spell."""
    return rewritten("binary", text, _edits(_BINARY, text, _from_binary)) if "01" in text else None


def decimal(text: str) -> Step | None:
    """Runs of the numbers of ASCII characters as the text they spell."""
    return rewritten("decimal", text, _edits(_DECIMAL, text, _from_decimal))


def base32(text: str) -> Step | None:
    """Base32 as the text it spells."""
    return rewritten("base32", text, _edits(_BASE32, text, _from_base32))


def base64_(text: str) -> Step | None:
    """Base64, with either alphabet, with or without its padding, as the text it spells. Backwards or as rot13 too, which hide its words."""
    for name, decode in (("base64", _from_base64), ("base64 reversed", _from_reversed_base64), ("base64 rot13", _from_rotated_base64)):
        if step := rewritten(name, text, _edits(_BASE64, text, decode)):
            return step
    return None


def _edits(pattern: re.Pattern[str], text: str, decode: Callable[[str], bytes | None]) -> Iterator[Edit]:
    for match in pattern.finditer(text):
        in_time()
        found: list[Edit] = []
        for cut in _cuts(match[0]):
            edits = [(match.start() + start, match.start() + end, _said(match[0][start:end], decode, _NESTED)) for start, end in cut]
            found = max(found, [edit for edit in edits if edit[2]], key=lambda said: sum(len(edit[2]) for edit in said))
            if len(found) == len(cut):
                break
        if found:
            yield from found
        elif said := _salvaged(match[0], decode, _SALVAGED):
            yield *match.span(), said


def _cuts(code: str) -> Iterator[list[tuple[int, int]]]:
    """Which lines of a code belong together: all of them, all but the first or last one, which may be words beside it, or none."""
    yield [(0, len(code))]
    if "\n" not in code:
        return
    ends = [place for place, sign in enumerate(code) if sign == "\n"]
    for inner in ([ends[0]], [ends[-1]], [ends[0], ends[-1]], ends):
        yield [(start + 1, end) for start, end in pairwise([-1, *dict.fromkeys(inner), len(code)])]


def _said(code: str, decode: Callable[[str], bytes | None], depth: int) -> str:
    """The text that a code spells, or nothing where it spells none."""
    if len(code) > 2 * _PROBE and decode in _LONG and not _begins_as_text(_LONG[decode](code)):
        return ""
    octets = decode(code)
    try:
        said = octets.decode("utf-8") if octets else ""
    except UnicodeDecodeError:
        return ""
    if decode is _from_decimal and not (_has_words(said) and _is_surely_text(said, depth)):  # numbers that could be signs are mostly none
        return said if len(said) >= 2 * _LEAST and any(_has_code(said, *code, depth - 1) for code in _CODES) else ""
    return said if said.strip() and _is_visible(said) and is_text(said, depth) else ""


def _has_words(text: str) -> bool:
    """Whether there is a place in it with as many spaces as words have between them."""
    pieces = (text[place : place + 2 * _STEP] for place in range(0, len(text), _STEP))
    return any(_GAP * piece.count(" ") >= len(piece) for piece in pieces if len(piece) >= _STEP or len(text) < _STEP)


def _salvaged(code: str, decode: Callable[[str], bytes | None], depth: int) -> str:
    """The text in a code that has other octets beside it, before it or behind it: those are nothing that a reader would mind."""
    for octets in _LOOSE[decode](code) if len(code) > _LEAST else ():
        octets = octets.replace(b"\0", b"")
        if octets.isascii() and octets.decode().isprintable() and octets == decode(code):
            continue  # nothing is beside it, and it was found to be none
        if len(octets) >= _LEAST and len(_ASCII.findall(octets)) >= (1 - _JUNK) * len(octets):
            whole = _CONTROL.sub("", re.sub("\ufffd+", "\ufffd", octets.decode("utf-8", "replace")))
            if _is_surely_text(whole.replace("\ufffd", " "), depth):
                return whole
        stretches = [stretch for stretch in _TEXT.findall(octets) if stretch.isascii() or len(stretch) >= 2 * _LEAST]
        said = [_CONTROL.sub("", stretch.decode("utf-8", "replace")) for stretch in stretches]
        if said := [stretch for stretch in said if _is_surely_text(stretch, depth)]:
            return " ".join(said)
    return ""


def _begins_as_text(code: str) -> bool:
    """Whether the first characters of a long base64 are text: an image is not decoded to find that out."""
    start = base64.b64decode(code[: 2 * _PROBE].translate(_URL_SAFE).lstrip("=")[:_PROBE])
    said = start.decode("utf-8", "ignore")
    return _is_visible(said) and len(said.encode()) >= len(start) - 3  # the last character may be cut


def _is_visible(text: str) -> bool:
    return _CONTROL.search(text) is None


def is_text(text: str, depth: int) -> bool:
    """Whether somebody would read it: words, or another disguise with words in it."""
    in_time()
    if _reads(text) or any(_reads(text[place : place + 2 * _STEP]) for place in range(0, len(text), _STEP) if len(text) > _WINDOW):
        return True
    if any(all_stretches(text, (ROTATED, REVERSED, BOTH))):
        return True
    bare = text[:_WINDOW]
    for undo in _DISGUISES:
        step = undo(bare)
        if step is not None:
            bare = step.text
            if _reads(bare):
                return True
    return depth > 0 and any(_has_code(text, pattern, decode, depth - 1) for pattern, decode in _CODES)


def _is_surely_text(text: str, depth: int) -> bool:
    """Whether it is text of which there is enough that chance does not look so: among octets that are none there are many places for it."""
    like = likeness(text)
    if like.nats > _SURE or 2 * like.letters < sum(map(str.isalpha, text)):
        return is_text(text, depth)
    return any(all_stretches(text, (ROTATED, REVERSED, BOTH))) or any(_has_code(text, *code, depth - 1) for code in _CODES)


def _has_code(text: str, pattern: re.Pattern[str], decode: Callable[[str], bytes | None], depth: int) -> bool:
    """Whether the first code in it spells text: one disguise upon another leaves one long code."""
    found = pattern.search(text)
    if found is None:
        return False
    return bool(_said(found[0], decode, depth) or (depth > _SALVAGED and _salvaged(found[0], decode, _SALVAGED)))


def _reads(text: str) -> bool:
    letters = sum(map(str.isalpha, text))
    spaces = sum(map(str.isspace, text))
    if letters < 3 or letters + spaces < _SHARE * len(text) or (len(text) > 40 and not spaces):
        return False
    like = likeness(text)
    if like.letters < letters / 2:  # of another alphabet: random octets are not
        return letters >= 4
    return like.rate > LIKELY and like.nats > 1.5


def _from_hex(code: str) -> bytes | None:
    digits = _SEPARATORS.sub("", code)
    return bytes.fromhex(digits) if len(digits) % 2 == 0 else None


def _from_binary(code: str) -> bytes | None:
    digits = re.sub("[ ,]", "", code)
    return bytes(int(digits[place : place + 8], 2) for place in range(0, len(digits), 8))


def _from_decimal(code: str) -> bytes | None:
    return bytes(map(int, _FIGURES.findall(code)))


def _from_base32(code: str) -> bytes | None:
    bare = code.rstrip("=")
    try:
        return base64.b32decode(bare + "=" * (-len(bare) % 8))
    except binascii.Error:
        return None


def _from_base64(code: str) -> bytes | None:
    bare = code.translate(_URL_SAFE).rstrip("=")
    if (
        bare[:1] == "="
        or len(bare) % 4 == 1
        or len(bare) < 8
        or (bare.isalpha() and len(bare) < 24 and (bare.islower() or bare.istitle() or bare.isupper()))
    ):
        return None
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except binascii.Error:
        return None


def _from_reversed_base64(code: str) -> bytes | None:
    return _from_base64(code[::-1])


def _from_rotated_base64(code: str) -> bytes | None:
    return _from_base64(codecs.encode(code, "rot13"))


def _loose_base64(code: str) -> Iterator[bytes]:
    bare = code.translate(_URL_SAFE).strip("=")
    return _from_each_place(bare, 4, base64.b64decode)


def _loose_base32(code: str) -> Iterator[bytes]:
    return _from_each_place(code.rstrip("="), 8, base64.b32decode)


def _from_each_place(bare: str, group: int, decode: Callable[[str], bytes]) -> Iterator[bytes]:
    """Decoded from each of its first characters on: those before it may be no part of it."""
    for start in range(group):
        with contextlib.suppress(binascii.Error):
            yield decode(bare[start:] + "A" * (-(len(bare) - start) % group))  # `A` stands for zeros, which are nothing


_URL_SAFE = str.maketrans("-_", "+/", "\r\n")
_DISGUISES = (hidden, turned, invisible, marked, compatible, confusable, html_escapes, url_escapes, program_escapes, spaced, leet)
_CODES = ((_HEX, _from_hex), (_BINARY, _from_binary), (_DECIMAL, _from_decimal), (_BASE32, _from_base32), (_BASE64, _from_base64))
# How those whose long codes are tried at their beginning are turned to base64.
_LONG: dict[Callable[[str], bytes | None], Callable[[str], str]] = {
    _from_base64: lambda code: code,
    _from_reversed_base64: lambda code: code[: -2 * _PROBE : -1],
    _from_rotated_base64: lambda code: codecs.encode(code[: 2 * _PROBE], "rot13"),
}
# The octets that a code may stand for when others are around it.
_LOOSE: dict[Callable[[str], bytes | None], Callable[[str], Iterable[bytes]]] = {
    _from_hex: lambda code: [_from_hex(code) or b""],
    _from_binary: lambda code: [_from_binary(code) or b""],
    _from_decimal: lambda _: [],  # all of it is ASCII
    _from_base32: _loose_base32,
    _from_base64: _loose_base64,
    _from_reversed_base64: lambda code: _loose_base64(code[::-1]),
    _from_rotated_base64: lambda code: _loose_base64(codecs.encode(code, "rot13")),
}
