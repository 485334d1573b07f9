"""What nobody sees: invisible characters inside of words, messages in tags and variation selectors, and text that is turned round."""

import re
import unicodedata
from collections.abc import Iterator

from guardrail.normalize.offsets import Edit, Step, rewritten

# Characters without a glyph of their own: soft hyphen, joiners, marks and controls of direction, fillers, variation selectors, tags.
_INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\ufff9-\ufffb\U000e0000-\U000e007f\U000e0100-\U000e01ef"
)
_RUN = re.compile(f"[{_INVISIBLE}]+")
_CARRIERS = re.compile(
    "[\U000e0020-\U000e007e]|[\ufe00-\ufe0f\U000e0100-\U000e01ef][\u00ad\u200b-\u200d\u2060]?[\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)
_OVERRIDE = re.compile("\u202e([^\u202c\u2069\n]+)[\u202c\u2069]?")
_RIGHT_TO_LEFT = re.compile("[\u05be-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]")
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u2066\u2067\u2068\u2069")
_JOINS = frozenset("\u034f\u200b\u200c\u200d\u2060")
_FLAG = "\U0001f3f4"
_REGION = re.compile("[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f")
_MARKED = re.compile("([A-Za-z])([\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+)")
# Marks that orthographies set on Latin letters which have no composed form; one of them alone is spelling.
_SPELLING = frozenset(
    "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u0309\u030a\u030b\u030c\u030f\u0311\u031b\u0323\u0324\u0325\u0326\u0327\u0328\u032d\u0330\u0331"
)


def turned(text: str) -> Step | None:
    """What an override shows from right to left, in the order in which it is read. Hebrew and Arabic stand as they are."""
    if "\u202e" not in text:
        return None
    found = _OVERRIDE.finditer(text)
    return rewritten("bidi", text, ((*match.span(), match[1][::-1]) for match in found if not _RIGHT_TO_LEFT.search(match[1])))


def hidden(text: str) -> Step | None:
    """Messages written in tag characters or variation selectors, in place of the picture that carries them."""
    if not _CARRIERS.search(text):
        return None
    return rewritten("hidden", text, _messages(text))


def invisible(text: str) -> Step | None:
    """The text without characters that are not seen, but for those that emoji and scripts need to look as they do."""
    return rewritten("invisible", text, _removed(text))


def marked(text: str) -> Step | None:
    """Latin letters without what is struck through or piled upon them. Accents of real spellings stay."""
    return rewritten("marks", text, ((match.start(2), match.end(2), "") for match in _MARKED.finditer(text) if not _spelled(match)))


def _messages(text: str) -> Iterator[Edit]:
    for match in _RUN.finditer(text):
        message = _message(match[0])
        if message and not _is_flag(text, match):
            start = match.start()
            carrier = start > 0 and unicodedata.category(text[start - 1]) == "So"  # a picture that only carries it says nothing beside it
            yield start - carrier, match.end(), f" {message} "


def _message(run: str) -> str:
    """What a run of invisible characters says, or nothing."""
    if len(run) < 2:
        return ""
    tags = "".join(chr(ord(sign) - 0xE0000) for sign in run if "\U000e0020" <= sign <= "\U000e007e")
    if tags.strip():
        return tags
    octets = bytes(value for sign in run if (value := _selected(sign)) is not None)
    if len(octets) < 2:
        return ""
    try:
        said = octets.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    return said if said.strip() and all(sign.isprintable() or sign.isspace() or _RUN.match(sign) for sign in said) else ""


def _selected(sign: str) -> int | None:
    """The octet that a variation selector stands for: the first sixteen, then the 240 of the other block."""
    if "\ufe00" <= sign <= "\ufe0f":
        return ord(sign) - 0xFE00
    return ord(sign) - 0xE0100 + 16 if "\U000e0100" <= sign <= "\U000e01ef" else None


def _removed(text: str) -> Iterator[Edit]:
    right_to_left = _RIGHT_TO_LEFT.search(text) is not None
    for match in _RUN.finditer(text):
        if not (_is_flag(text, match) or _needed(text, match, right_to_left=right_to_left)):
            yield *match.span(), ""


def _is_flag(text: str, match: re.Match[str]) -> bool:
    """Whether it is the region of a flag (of Scotland, say)."""
    return text[match.start() - 1 : match.start()] == _FLAG and _REGION.fullmatch(match[0]) is not None


def _needed(text: str, match: re.Match[str], *, right_to_left: bool) -> bool:
    run = match[0]
    before, after = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
    if right_to_left and len(run) <= 3 and _DIRECTIONS.issuperset(run):
        return not (_is_latin(before) and _is_latin(after))
    if run[0] in "\ufe0e\ufe0f" and _has_two_looks(before):
        run = run[1:]
        if not run:
            return True
    if run == "\u200d" and _is_pictograph(before):
        return _is_pictograph(after)
    if len(run) > 1 or not before:
        return False
    if run in _JOINS:
        return _is_joining(before) and not _is_latin(after)
    if "\ufe00" <= run <= "\ufe0f" or run >= "\U000e0100":
        return before >= "\u2e80" and before.isalpha()
    if "\u180b" <= run <= "\u180f":
        return "\u1800" <= before <= "\u18af"
    return run in "\u115f\u1160\u17b4\u17b5" and _is_joining(before)


def _is_latin(sign: str) -> bool:
    return bool(sign) and sign.isalpha() and sign < "\u0250"


def _is_pictograph(sign: str) -> bool:
    return bool(sign) and (sign >= "\U0001f000" or sign == "\ufe0f" or unicodedata.category(sign) in ("So", "Sk"))


def _has_two_looks(sign: str) -> bool:
    """A sign that is shown as text or as a picture: a symbol, or a key of a telephone."""
    return bool(sign) and (sign in "0123456789#*" if sign.isascii() else not (sign.isalpha() or sign.isspace()))


def _is_joining(sign: str) -> bool:
    """A letter or mark of a script that writes with joiners (Arabic, the Indic ones, Mongolian and so on) or without spaces (Thai)."""
    if not "\u0590" <= sign < "\U0001d000" or "\u1e00" <= sign < "\u2e80" or "\ua640" <= sign < "\ua800":
        return False
    return unicodedata.category(sign)[0] in "LM" and not ("\ufb00" <= sign <= "\ufb06" or "\uff21" <= sign <= "\uff5a")


def _spelled(match: re.Match[str]) -> bool:
    left = unicodedata.normalize("NFC", match[0])[1:]
    return not left or (len(left) == 1 and left in _SPELLING)
