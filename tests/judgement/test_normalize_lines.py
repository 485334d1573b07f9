"""Readings of several lines: a disguised line is read beside plain ones, before, behind and between them, and so are several of them."""

import codecs

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail.disguises import DISGUISES, Disguise
from guardrail.normalize import readings
from guardrail.types import ReadingLimits, Span

LIMITS = ReadingLimits()
DECODABLE = {disguise.name: disguise for disguise in DISGUISES if disguise.decodable}
SAID = (
    "You are a worthless idiot and everyone in this office hates you",
    "Tell me how to make a marmalade for the children of my neighbour",
    "I will come to your house tonight and hide all of your garden chairs",
    "Everybody here knows that nobody wants to work with you again",
)
PLAIN = (
    "Good morning, I hope you are well.",
    "Please send the report to the second floor before lunch",
    "def main():\n    return 1",
    "- item one\n- item two",
    "Translate this:",
    "Thanks!",
    "```",
)


def bare(text: str) -> str:
    return "".join(sign for sign in text.lower() if sign.isalpha())


def is_read(said: str, text: str) -> bool:
    """Whether one of the readings says it; its first and last words may stand otherwise, as those of a stretch within a line may."""
    return any(bare(said)[6:-6] in bare(reading.text) for reading in readings(text, limits=LIMITS).found)


def rot13(text: str) -> str:
    return codecs.encode(text, "rot13")


@pytest.mark.parametrize("name", DECODABLE)
@settings(max_examples=25, deadline=None)
@given(said=st.sampled_from(SAID), plain=st.sampled_from(PLAIN), gap=st.sampled_from(["\n", "\n\n", "\r\n", " \n"]))
def test_a_disguised_line_is_read_beside_plain_ones(name: str, said: str, plain: str, gap: str) -> None:
    spelled = DECODABLE[name].spell(said)
    for text in (f"{plain}{gap}{spelled}", f"{spelled}{gap}{plain}", f"{plain}{gap}{spelled}{gap}{plain}"):
        assert is_read(said, text), text


@pytest.mark.parametrize("name", DECODABLE)
@settings(max_examples=25, deadline=None)
@given(
    said=st.lists(st.sampled_from(SAID), min_size=2, max_size=4, unique=True),
    plain=st.sampled_from(PLAIN),
    gap=st.sampled_from(["\n", "\n\n", "\r\n"]),
)
def test_several_disguised_lines_are_read(name: str, said: list[str], plain: str, gap: str) -> None:
    disguise = DECODABLE[name]
    whole = f"\u202e{gap.join(said)[::-1]}\u202c" if name == "override" else disguise.spell(gap.join(said))
    for text in (whole, disguise.spell(gap.join(said)), disguise.spell(gap.join([plain, *said])), gap.join(map(disguise.spell, said))):
        assert all(is_read(one, text) for one in said), text


@pytest.mark.parametrize("spell", [rot13, lambda text: text[::-1], lambda text: rot13(text)[::-1]], ids=["rot13", "backwards", "both"])
def test_lines_are_read_as_they_were_said_and_plain_ones_beside_them_stay(spell) -> None:  # type: ignore[no-untyped-def]
    told = readings(f"{PLAIN[1]}\n{spell(SAID[0])}", limits=LIMITS)
    assert told.found[-1].text == f"{PLAIN[1]}\n{SAID[0]}"
    assert told.truncated == ()
    paragraphs = f"{SAID[0]}\n{SAID[1]}.\n\n{SAID[2]}"
    assert readings(spell(paragraphs), limits=LIMITS).found[-1].text == paragraphs
    column = SAID[0].replace(" ", "\n")
    assert readings(spell(column), limits=LIMITS).found[-1].text == column


def test_words_backwards_are_read_in_each_line() -> None:
    lines = f"{SAID[0]}.\n{SAID[1]}."
    spelled = "\n".join(" ".join(word[::-1] for word in line.split(" ")) for line in lines.split("\n"))
    assert readings(spelled, limits=LIMITS).found[-1].text == lines


def test_a_line_leads_back_to_itself_alone() -> None:
    text = "\n".join([PLAIN[0], rot13(SAID[0]), rot13(SAID[1]), PLAIN[1]])
    reading = readings(text, limits=LIMITS).found[-1]
    place = reading.text.index("marmalade")
    start = text.index(rot13(SAID[1]))
    assert reading.raw(Span(place, place + 9)) == Span(start, start + len(SAID[1]))


def test_two_lines_in_two_disguises_are_both_read() -> None:
    named = [Disguise("both", lambda text: rot13(text)[::-1]), *(DECODABLE[name] for name in ("rot13", "backwards", "base64", "html"))]
    for first in named:
        for second in named:
            text = f"{first.spell(SAID[0])}\n{second.spell(SAID[1])}"
            assert is_read(SAID[0], text), text
            assert is_read(SAID[1], text), text


def test_codes_beside_one_another_are_both_read() -> None:
    for first, second in (("binary", "hex"), ("hex", "binary"), ("base64", "base32")):
        text = f"{DECODABLE[first].spell(SAID[0])} {DECODABLE[second].spell(SAID[1])}"
        assert is_read(SAID[0], text), text
        assert is_read(SAID[1], text), text
