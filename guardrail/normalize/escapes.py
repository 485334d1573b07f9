"""Characters spelled as something that software turns into them: HTML references, URL escapes, and the escapes of programs' strings."""

import html
import re
from collections.abc import Callable, Iterator

from guardrail.normalize.offsets import Edit, Step, rewritten

_REFERENCE = re.compile(r"&(?:#\d{1,7};?|#[xX][0-9a-fA-F]{1,6};?|[A-Za-z]{2,31}\d{0,2};)")
# UTF-8 that is seen: other octets stay, so that they hide nothing beside them.
_MORE = "%[89ab][0-9a-f]"
_PERCENT = re.compile(
    rf"(?:%0[9ad]|%[2-6][0-9a-f]|%7[0-9a-e]|(?:%c[2-9a-f]|%d[0-9a-f]){_MORE}"
    rf"|(?:%e0%[ab][0-9a-f]|%e[1-9abcef]{_MORE}|%ed%[89][0-9a-f]){_MORE}"
    rf"|(?:%f0%[9ab][0-9a-f]|%f[123]{_MORE}|%f4%8[0-9a-f]){_MORE}{_MORE})+",
    re.IGNORECASE,
)
_PROGRAM = re.compile(r"(?:\\u[0-9a-fA-F]{4}|\\U[0-9a-fA-F]{8}|\\x[0-9a-fA-F]{2}|\\u\{[0-9a-fA-F]{1,6}\})+")
_ESCAPE = re.compile(r"(?:\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u\{[0-9a-fA-F]+\}|\\U.{8}|\\u.{4}|\\x.{2}")
_CODE = re.compile(r"[0-9a-fA-F]+")
_LETTERS = 2  # of ASCII in all escapes of a text together: software escapes the odd dash or accent, which is nothing to undo

_CODED = 12  # digits and signs of other codes in them: another disguise below
_TAGS = "\U000e0000"
_SIGNS = frozenset("0123456789&#;%\\=+/")


def html_escapes(text: str) -> Step | None:
    """HTML character references as characters."""
    if "&" not in text:
        return None
    return rewritten("html", text, ((*match.span(), _visible(html.unescape(match[0]), match[0])) for match in _REFERENCE.finditer(text)))


def url_escapes(text: str) -> Step | None:
    """`%` escapes as the UTF-8 that they spell; what is no UTF-8 stays."""
    return rewritten("url", text, _edits(_PERCENT, text, _unquoted)) if "%" in text else None


def program_escapes(text: str) -> Step | None:
    r"""`\u`, `\U` and `\x` escapes as characters, where they spell letters, or another code."""
    if "\\" not in text:
        return None
    edits = [(start, end, read) for start, end, read in _edits(_PROGRAM, text, _unescaped) if read != text[start:end]]
    coded = sum(sign in _SIGNS or sign >= _TAGS for _, _, instead in edits for sign in instead)
    letters = sum(sign.isalpha() for _, _, instead in edits for sign in instead if sign.isascii())
    others = sum(sign.isalpha() for _, _, instead in edits for sign in instead)
    return rewritten("escapes", text, edits) if letters >= _LETTERS or others >= 2 * _LETTERS or coded >= _CODED else None


def _edits(pattern: re.Pattern[str], text: str, read: Callable[[str], str]) -> Iterator[Edit]:
    for match in pattern.finditer(text):
        yield *match.span(), read(match[0])


def _unquoted(escapes: str) -> str:
    return bytes.fromhex(escapes.replace("%", "")).decode("utf-8")


def _unescaped(escapes: str) -> str:
    return _ESCAPE.sub(lambda match: _character(match[0]), escapes)


def _character(escape: str) -> str:
    """The character of one escape, or of two that are its halves, as JSON spells those beyond the first plane."""
    codes = [int(code, 16) for code in _CODE.findall(escape)]
    if any(code > 0x10FFFF for code in codes):
        return escape
    try:
        return _visible("".join(map(chr, codes)).encode("utf-16", "surrogatepass").decode("utf-16"), escape)
    except UnicodeDecodeError:
        return escape


def _visible(read: str, escapes: str) -> str:
    """What was read, unless it is control characters: nobody reads those."""
    return read if all(sign.isprintable() or sign in "\t\n\r" or ord(sign) > 0x7F for sign in read) else escapes
