"""Text spelled as data: base64, base32, hexadecimal and binary digits. Undone only where text comes out: keys and images stay."""

import base64
import binascii
import codecs
import re
from collections.abc import Callable, Iterator

from guardrail.normalize.escapes import html_escapes, program_escapes, url_escapes
from guardrail.normalize.hidden import hidden, invisible, marked, turned
from guardrail.normalize.letters import BOTH, LIKELY, REVERSED, ROTATED, all_stretches, likeness
from guardrail.normalize.lookalikes import compatible, confusable
from guardrail.normalize.offsets import Edit, Step, rewritten
from guardrail.normalize.spelling import leet, spaced

_BASE64 = re.compile(r"(?<![A-Za-z0-9+/_=-])={0,2}[A-Za-z0-9+/_-]{8,}(?:\r?\n[A-Za-z0-9+/_-]{8,})*={0,2}(?![A-Za-z0-9+/_=-])")
_BASE32 = re.compile(r"(?<![A-Za-z0-9=])[A-Z2-7]{16,}={0,6}(?![A-Za-z0-9=])")
_HEX = re.compile(r"(?<![A-Za-z0-9])(?:0x)?[0-9a-fA-F]{2}(?:(?:[ :,;-]|, |\\x| 0x|, ?0x)?[0-9a-fA-F]{2}){3,}(?![A-Za-z0-9])")
_BINARY = re.compile(r"(?<![A-Za-z0-9])[01]{8}(?:[ ,]?[01]{8}){3,}(?![A-Za-z0-9])")
_SEPARATORS = re.compile(r"0x|\\x|[ :,;-]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ue000-\uf8ff\ufdd0-\ufdef\ufffe\uffff]")
_PROBE = 64  # characters of a long one that are tried before the whole of it
_SHARE = 0.75  # of what comes out must be letters and spaces
_WINDOW = 256  # characters that are one thing; in longer texts it is enough that one place reads, so that junk around it hides nothing
_STEP = 24
_NESTED = 16  # layers that are looked through to find text, each smaller than the one around it


def hexadecimal(text: str) -> Step | None:
    """Runs of hexadecimal octets as the text they spell."""
    return rewritten("hex", text, _edits(_HEX, text, _from_hex))


def binary(text: str) -> Step | None:
    """Runs of octets in binary digits as the text they spell."""
    return rewritten("binary", text, _edits(_BINARY, text, _from_binary)) if "01" in text else None


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
        if said := _said(match[0], decode, _NESTED):
            yield *match.span(), said


def _said(code: str, decode: Callable[[str], bytes | None], depth: int) -> str:
    """The text that a code spells, or nothing where it spells none."""
    if len(code) > 2 * _PROBE and decode in _LONG and not _begins_as_text(_LONG[decode](code)):
        return ""
    octets = decode(code)
    try:
        said = octets.decode("utf-8") if octets else ""
    except UnicodeDecodeError:
        return ""
    return said if said.strip() and _is_visible(said) and is_text(said, depth) else ""


def _begins_as_text(code: str) -> bool:
    """Whether the first characters of a long base64 are text: an image is not decoded to find that out."""
    start = base64.b64decode(code[: 2 * _PROBE].translate(_URL_SAFE).lstrip("=")[:_PROBE])
    said = start.decode("utf-8", "ignore")
    return _is_visible(said) and len(said.encode()) >= len(start) - 3  # the last character may be cut


def _is_visible(text: str) -> bool:
    return _CONTROL.search(text) is None


def is_text(text: str, depth: int) -> bool:
    """Whether somebody would read it: words, or another disguise with words in it."""
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


def _has_code(text: str, pattern: re.Pattern[str], decode: Callable[[str], bytes | None], depth: int) -> bool:
    """Whether the first code in it spells text: one disguise upon another leaves one long code."""
    found = pattern.search(text)
    return found is not None and bool(_said(found[0], decode, depth))


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


_URL_SAFE = str.maketrans("-_", "+/", "\r\n")
_DISGUISES = (hidden, turned, invisible, marked, compatible, confusable, html_escapes, url_escapes, program_escapes, spaced, leet)
_CODES = ((_HEX, _from_hex), (_BINARY, _from_binary), (_BASE32, _from_base32), (_BASE64, _from_base64))
# How those whose long codes are tried at their beginning are turned to base64.
_LONG: dict[Callable[[str], bytes | None], Callable[[str], str]] = {
    _from_base64: lambda code: code,
    _from_reversed_base64: lambda code: code[: -2 * _PROBE : -1],
    _from_rotated_base64: lambda code: codecs.encode(code[: 2 * _PROBE], "rot13"),
}
