"""Characters spelled as something that software turns into them: references, escapes of URLs, mail and programs, and unseen markup."""

import html
import re
from collections.abc import Callable, Iterable, Iterator

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
_OCTAL = re.compile(r"(?:\\[0-3][0-7]{2})+")
_QUOTED = re.compile(rf"(?:{_PERCENT.pattern.replace('%', '=')}(?:=\r?\n)?)+", re.IGNORECASE)
_QUOTED_OCTET = re.compile("=[0-9a-fA-F]{2}")
_SOFT = re.compile(r"=\r?\n")
# Within a word: comments, and the elements that browsers show no gap for.
_VALUE = r"""(?:"[^"<>]{0,99}"|'[^'<>]{0,99}'|[^\s"'<>]{1,99})"""
_INLINE = "(?:a|b|big|code|em|font|i|ins|mark|q|s|small|span|strong|tt|u|wbr)"
_UNSEEN = re.compile(
    rf"(?<=[A-Za-z])(?:<!--[^>]{{0,99}}-->|</?{_INLINE}(?: [a-z-]{{1,20}}={_VALUE}){{0,4}} ?/?>)+(?=[A-Za-z])", re.IGNORECASE
)
_SURELY = ("/", "<!", "<wbr")  # one of these is in markup; types of programs have brackets, too
_CODE = re.compile(r"[0-9a-fA-F]+")
_LETTERS = 2  # of ASCII in all escapes of a text together: software escapes the odd dash or accent, which is nothing to undo

_MANY = 6  # of them in runs, where the signs are those of other things, too: numbers of formulas, names of files
_RUN = 2
_TEXT = 0.8  # of the octets that are spelled so must be text
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
    r"""`\u`, `\U`, `\x` and octal escapes as characters, where they spell letters, or another code."""
    if "\\" not in text:
        return None
    return _rewritten("escapes", text, _edits(_PROGRAM, text, _unescaped), _LETTERS) or _rewritten(
        "escapes", text, _edits(_OCTAL, text, _from_octal), _MANY, _RUN
    )


def quoted_printable(text: str) -> Step | None:
    """`=` escapes of mail as the UTF-8 that they spell, where they spell letters, which mail never does, or another code."""
    if "=" not in text:
        return None
    edits = list(_edits(_QUOTED, text, _unquoted_mail))
    if sum(len(read.encode()) for _, _, read in edits) < _TEXT * len(_QUOTED_OCTET.findall(text)):
        return None
    return _rewritten("quoted-printable", text, edits, _MANY, _RUN)


def markup(text: str) -> Step | None:
    """Words without the comments and elements that cut them and are not seen, as a browser shows them."""
    found = list(_UNSEEN.finditer(text)) if "<" in text else []
    if not any(mark in match[0] for match in found for mark in _SURELY):
        return None
    return rewritten("markup", text, ((*match.span(), "") for match in found))


def _rewritten(name: str, text: str, edits: Iterable[Edit], enough: int, run: int = 1) -> Step | None:
    """With what all of them spell, if in runs of some length it is so many letters of ASCII, twice as many others, or another code."""
    changed = [(start, end, read) for start, end, read in edits if read != text[start:end]]
    signs = "".join(read for _, _, read in changed if len(read) >= run)
    coded = sum(sign in _SIGNS or sign >= _TAGS for sign in signs)
    letters = sum(sign.isalpha() for sign in signs if sign.isascii())
    others = sum(map(str.isalpha, signs))
    return rewritten(name, text, changed) if letters >= enough or others >= 2 * enough or coded >= _CODED else None


def _edits(pattern: re.Pattern[str], text: str, read: Callable[[str], str]) -> Iterator[Edit]:
    for match in pattern.finditer(text):
        yield *match.span(), read(match[0])


def _unquoted(escapes: str) -> str:
    return bytes.fromhex(escapes.replace("%", "")).decode("utf-8")


def _unquoted_mail(escapes: str) -> str:
    return bytes.fromhex(_SOFT.sub("", escapes).replace("=", "")).decode("utf-8")


def _from_octal(escapes: str) -> str:
    """What the octets spell, without those few that are no text beside it."""
    octets = bytes(int(code, 8) for code in escapes.split("\\")[1:])
    read = "".join(sign for sign in octets.decode("utf-8", "ignore") if sign.isprintable() or sign in "\t\n\r")
    return read if len(read.encode()) >= _TEXT * len(octets) else escapes


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
