"""Ways to spell a text so that a reader gets it and a filter may not: what `guardrail.normalize` has to see through."""

import base64
import codecs
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

_CYRILLIC = str.maketrans("aceopxyABCEHKMOPTX", "асеорхуАВСЕНКМОРТХ")
_LINE = "Please send the report to the second floor before lunch."
_LEET = str.maketrans("aeiostAEIOST", "431057431057")


@dataclass(frozen=True, slots=True)
class Disguise:
    """`name`, how a text is spelled in it, and whether the text can be told from that alone (`decodable`).

    `words`: it changes words alone, so that what is written in signs that are none (`code`) is broken by going through it. `strange`: its
    letters are no ASCII, so that one which keeps that alone (`ascii_alone`) loses them. `lines`: it spells over several.
    """

    name: str
    spell: Callable[[str], str]
    decodable: bool = True
    words: bool = False
    code: bool = False
    strange: bool = False
    ascii_alone: bool = False
    lines: bool = False

    def in_lines(self) -> "Disguise":
        """This one put on a text of two lines, behind a plain and harmless line."""
        return replace(self, name=f"{self.name}, in lines", spell=lambda text: f"{_LINE}\n{self.spell(_broken(text))}", lines=True)

    def after(self, inner: "Disguise") -> "Disguise":
        """This one put upon another."""
        broken = (self.words and inner.code) or (self.ascii_alone and inner.strange)
        return Disguise(
            f"{inner.name} + {self.name}",
            lambda text: self.spell(inner.spell(text)),
            decodable=self.decodable and inner.decodable and not broken,
            words=self.words or inner.words,
            code=self.code or inner.code,
            strange=self.strange or inner.strange,
            ascii_alone=self.ascii_alone or inner.ascii_alone,
        )


def _broken(text: str) -> str:
    """The text over two lines, broken in its middle."""
    head, gap, tail = text[len(text) // 2 :].partition(" ")
    return text[: len(text) // 2] + head + ("\n" + tail if gap else "")


def _octets(text: str) -> bytes:
    return text.encode("utf-8")


def _shifted(text: str, capital: int, small: int) -> str:
    return "".join(chr(ord(s) - 65 + capital) if "A" <= s <= "Z" else chr(ord(s) - 97 + small) if "a" <= s <= "z" else s for s in text)


def _apart(text: str) -> str:
    return "   ".join(" ".join(word) for word in text.split())


def _overridden(text: str) -> str:
    return "\n".join(f"\u202e{line[::-1]}\u202c" for line in text.split("\n"))  # an override ends with its line


def _tags(text: str) -> str:
    return "\U0001f600" + "".join(chr(0xE0000 + ord(sign)) for sign in text if " " <= sign <= "~")


def _selectors(text: str) -> str:
    return "\U0001f600" + "".join(chr(0xFE00 + octet if octet < 16 else 0xE0100 + octet - 16) for octet in _octets(text))


PLAIN = Disguise("plain", str)
DISGUISES: tuple[Disguise, ...] = (
    Disguise("full width", lambda text: _shifted(text, 0xFF21, 0xFF41), strange=True),
    Disguise("mathematical", lambda text: _shifted(text, 0x1D5D4, 0x1D5EE), strange=True),
    Disguise("confusables", lambda text: text.translate(_CYRILLIC), strange=True),
    Disguise("zero width", "\u200b".join, code=True),
    Disguise("soft hyphens", "\u00ad".join, code=True),
    Disguise("struck through", lambda text: "".join(sign + "\u0336" if sign.isalpha() else sign for sign in text), code=True),
    Disguise("override", _overridden, code=True),
    Disguise("tags", _tags, code=True, strange=True, ascii_alone=True),
    Disguise("selectors", _selectors, code=True, strange=True),
    Disguise("letters apart", _apart, words=True),
    Disguise("letters apart, gaps lost", lambda text: " ".join("".join(text.split())), decodable=False, words=True),
    Disguise("leetspeak", lambda text: text.translate(_LEET), words=True),
    Disguise("html", lambda text: "".join(f"&#{ord(sign)};" for sign in text), code=True),
    Disguise("url", lambda text: "".join(f"%{octet:02X}" for octet in _octets(text)), code=True),
    Disguise("url, as browsers do", urllib.parse.quote),
    Disguise(
        "escapes", lambda text: "".join(f"\\u{ord(sign):04x}" if sign <= "\uffff" else f"\\U{ord(sign):08x}" for sign in text), code=True
    ),
    Disguise("base64", lambda text: base64.b64encode(_octets(text)).decode(), code=True),
    Disguise("base32", lambda text: base64.b32encode(_octets(text)).decode(), code=True),
    Disguise("hex", lambda text: _octets(text).hex(), code=True),
    Disguise("binary", lambda text: " ".join(f"{octet:08b}" for octet in _octets(text)), code=True),
    Disguise("rot13", lambda text: codecs.encode(text, "rot13")),
    Disguise("backwards", lambda text: text[::-1]),
)


def pairs(disguises: Sequence[Disguise] = DISGUISES) -> tuple[Disguise, ...]:
    """Every one of them put upon every other one."""
    return tuple(outer.after(inner) for inner, outer in permutations(disguises, 2))
