"""Readings of rarer spellings: octal escapes, quoted-printable, decimal character codes, and words cut by what HTML does not show."""

import base64
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail.normalize import readings
from guardrail.types import ReadingLimits

LIMITS = ReadingLimits()
TEXT = "You are a worthless idiot and everyone in this office hates you."
OCTETS = TEXT.encode()
NEW = {"escapes", "quoted-printable", "decimal", "markup"}


def cut(text: str, by: str) -> str:
    return " ".join(word[:2] + by + word[2:] if len(word) > 3 else word for word in text.split())


DISGUISES = {
    "octal": ("".join(f"\\{octet:03o}" for octet in OCTETS), ("escapes",)),
    "octal letters": ("".join(f"\\{ord(sign):03o}" if sign.isalpha() else sign for sign in TEXT), ("escapes",)),
    "quoted-printable": ("".join(f"={octet:02X}" for octet in OCTETS), ("quoted-printable",)),
    "quoted-printable letters": ("".join(f"={ord(sign):02x}" if sign.isalpha() else sign for sign in TEXT), ("quoted-printable",)),
    "quoted-printable lines": ("=\n".join("".join(f"={octet:02X}" for octet in OCTETS[place : place + 20]) for place in range(0, 64, 20)),
                               ("quoted-printable",)),
    "decimal": (" ".join(map(str, OCTETS)), ("decimal",)),
    "decimal list": (str(list(OCTETS))[1:-1], ("decimal",)),
    "decimal words": (" / ".join(" ".join(str(ord(sign)) for sign in f"{word} ") for word in TEXT.split())[:-3], ("decimal",)),
    "decimal with zeros": (" ".join(f"{octet:03d}" for octet in OCTETS), ("decimal",)),
    "base64 of decimal": (base64.b64encode(" ".join(map(str, OCTETS)).encode()).decode(), ("base64", "decimal")),
    "octal of base64": ("".join(f"\\{octet:03o}" for octet in base64.b64encode(OCTETS)), ("escapes", "base64")),
    "comments": (cut(TEXT, "<!-- -->"), ("markup",)),
    "long comments": (cut(TEXT, "<!-- a remark, which nobody sees -->"), ("markup",)),
    "empty elements": (cut(TEXT, "<b></b>"), ("markup",)),
    "styled halves": (cut(TEXT, '</b><b class="x">'), ("markup",)),
    "breaks that may be": (cut(TEXT, "<wbr/>"), ("markup",)),
}  # fmt: skip

BENIGN = {
    "numbers": "The scores were 87 92 78 95 88 91 76 84 99 101 and 67, 72, 81, 90, 65, 77, 83, 94, 100, 79 last year.",
    "counting": " ".join(map(str, range(1, 200))),
    "counting by commas": ", ".join(map(str, range(32, 127))),
    "a table": "\n".join(f"{place} {place * 7 % 90 + 32} {place * 13 % 90 + 32} {place * 3 % 90 + 32}" for place in range(40, 80)),
    "HTML": "<ul><li>One</li><li>Two</li></ul><p>First line<br>second</p><td>one</td><td>two</td><b>Bold</b> and <i>more</i>.",
    "chemistry": "H<sub>2</sub>O and x<sup>2</sup> + y<sup>2</sup>",
    "generics": "Map<String, List<B>> of(Optional<I> i) { return a<b && c>d; }",
    "query": "?a=41&b=42&c=43 x=10=20 if a==61 and b!=62: c=63; d=64; e=65",
    "mail": "Caf=C3=A9 cr=C3=A8me, it=E2=80=99s =3D ready",
    "ANSI": "\\033[1mBold\\033[0m \\033[31mred\\033[0m",
    "path": "C:\\101\\temp\\123.txt and \\1\\2 in s/(a)(b)/\\2\\1/",
}


@pytest.mark.parametrize("name", DISGUISES)
@pytest.mark.parametrize("line", ["", "Please send the report to the second floor before lunch.\n"], ids=["alone", "behind a line"])
def test_a_spelling_is_read_and_says_which_it_was(name: str, line: str) -> None:
    spelled, trace = DISGUISES[name]
    told = readings(line + spelled, limits=LIMITS)
    assert (told.found[-1].text, told.found[-1].trace, told.truncated) == (line + TEXT, trace, ())


@pytest.mark.parametrize("name", BENIGN)
def test_what_only_looks_like_one_stays(name: str) -> None:
    assert NEW.isdisjoint(readings(BENIGN[name], limits=LIMITS).found[-1].trace)


def test_junk_beside_codes_hides_nothing() -> None:
    for text in (
        "\\377" + DISGUISES["octal"][0] + "\\007",
        "=FF" + DISGUISES["quoted-printable"][0] + "=80",
        "7 300 " + DISGUISES["decimal"][0] + " 999 1",
        "String.fromCharCode(" + DISGUISES["decimal list"][0] + ")",
    ):
        assert TEXT in readings(text, limits=LIMITS).found[-1].text, text


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=12, max_size=400), st.sampled_from(["\\{:03o}", "={:02X}", "{} ", "{}, "]))
def test_random_octets_are_not_read_as_words(octets: bytes, spelling: str) -> None:
    octets = hashlib.shake_256(octets).digest(max(24, len(octets)))
    told = readings("".join(map(spelling.format, octets)), limits=LIMITS)
    assert NEW.isdisjoint(told.found[-1].trace)
