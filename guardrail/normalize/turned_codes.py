"""Codes that are written backwards or in rot13: turned back, where text comes out of them then, so that they can be undone like others."""

import codecs
import re
from collections.abc import Callable, Iterator

from guardrail.normalize.encodings import base32, binary, hexadecimal, is_text
from guardrail.normalize.escapes import html_escapes, program_escapes, url_escapes
from guardrail.normalize.offsets import Edit, Step, rewritten

_Turn = Callable[[str], str]
_Undo = Callable[[str], Step | None]

_DIGIT = "[0-9a-fA-F]"
_TURNED_DIGIT = "[0-9n-sN-S]"
_BACKWARDS: tuple[tuple[re.Pattern[str], _Undo], ...] = (
    (re.compile(rf"(?:;{_DIGIT}{{2,7}}[xX]?#&){{4,}}"), html_escapes),
    (re.compile(rf"(?:{_DIGIT}{{2}}%){{4,}}"), url_escapes),
    (re.compile(rf"(?:{_DIGIT}{{8}}U\\|{_DIGIT}{{4}}u\\|{_DIGIT}{{2}}x\\){{4,}}"), program_escapes),
    (re.compile(rf"(?<![A-Za-z0-9]){_DIGIT}{{2}}(?:[ :,;-]?{_DIGIT}{{2}}){{7,}}(?![A-Za-z0-9])"), hexadecimal),
    (re.compile(r"(?<![A-Za-z0-9])[01]{8}(?:[ ,]?[01]{8}){3,}(?![A-Za-z0-9])"), binary),
    (re.compile(r"(?<![A-Za-z0-9])={0,6}[A-Z2-7]{16,}(?![A-Za-z0-9=])"), base32),
)
_ROTATED: tuple[tuple[re.Pattern[str], _Undo], ...] = (
    (re.compile(rf"(?:&#[kK]{_TURNED_DIGIT}{{2,6}};){{4,}}"), html_escapes),
    (re.compile(rf"(?:%{_TURNED_DIGIT}{{2}}){{4,}}"), url_escapes),
    (re.compile(rf"(?:\\H{_TURNED_DIGIT}{{8}}|\\h{_TURNED_DIGIT}{{4}}|\\k{_TURNED_DIGIT}{{2}}){{4,}}"), program_escapes),
    (re.compile(rf"(?<![A-Za-z0-9]){_TURNED_DIGIT}{{2}}(?:[ :,;-]?{_TURNED_DIGIT}{{2}}){{7,}}(?![A-Za-z0-9])"), hexadecimal),
    (re.compile(r"(?<![A-Za-z0-9])[A-Z2-7]{16,}(?:={1,6}|(?![A-Za-z0-9=]))"), base32),
)
# One of these is in a text that any of them matches.
_MARKS = ("#&", "%", "\\", "&#")
_LONG = re.compile(r"[A-Za-z0-9=]{16}|(?:[0-9A-Sa-s]{2}[ :,;-]){7}|(?:[01]{8}[ ,]){3}")
_LAYERS = 2  # that a code may hide, for what comes out to be taken for text


def backwards(text: str) -> Step | None:
    """Codes that are written from their end, from their beginning."""
    return rewritten("reversed", text, _turned(text, _BACKWARDS, lambda code: code[::-1]))


def rotated_codes(text: str) -> Step | None:
    """Codes whose letters are written as rot13, with their own letters."""
    return rewritten("rot13", text, _turned(text, _ROTATED, lambda code: codecs.encode(code, "rot13")))


def _turned(text: str, kinds: tuple[tuple[re.Pattern[str], _Undo], ...], turn: _Turn) -> Iterator[Edit]:
    if not any(mark in text for mark in _MARKS) and not _LONG.search(text):
        return
    for pattern, undo in kinds:
        found = [(match.span(), match[0], turn(match[0])) for match in pattern.finditer(text)]
        edits = [(*span, turned) for span, code, turned in found if turned != code and _says_more(turned, code, undo)]
        if edits:
            yield from edits
            return


def _says_more(turned: str, code: str, undo: _Undo) -> bool:
    """Whether text comes out of it turned, and more of it is undone than as it stands."""
    step, plain = undo(turned), undo(code)
    return step is not None and (plain is None or len(plain.text) > len(step.text)) and is_text(step.text, _LAYERS)
