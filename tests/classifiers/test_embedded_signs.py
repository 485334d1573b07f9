"""What the embedded model's vocabulary lacks is told by name, or left out; places in the text stay right."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail.classifiers.embedded import SHIPPED
from guardrail.engine.embedded.weights import load

TOKENS = load(SHIPPED).tokens
UNKNOWN = TOKENS._tokenizer.token_to_id("[UNK]")


def words(text: str) -> list[str]:
    return [TOKENS._tokenizer.id_to_token(each) for each in TOKENS.windows(text)[0].ids[1:-1]]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("👍", "thumbs up"),
        ("👍👍🏽👍 yes", "thumbs up yes"),
        ("❤️", "heart"),
        ("stop😀it", "stop grinning face it"),
        ("𝗠𝗮𝘁𝗵 is ｆｕｎ", "math is fun"),
        ("🇩🇪🇫🇷", "flag"),
        ("a\u200bb", "ab"),
        ("50% █████", "50 % full block"),
        ("Café “naïve” ½", "cafe “ naive ” ½"),
        ("\U000f0000\ue000", ""),
    ],
)
def test_a_sign_without_a_place_in_the_vocabulary_reads_as_its_name(text: str, read: str) -> None:
    assert words(text) == read.split()


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=60) | st.lists(st.sampled_from(["a" * 70, "9f" * 40, "😀", "ß", " ", "ﷺ", "é" * 55]), max_size=6).map("".join))
def test_no_word_is_lost_to_an_unknown_sign_and_places_lie_in_the_text(text: str) -> None:
    windows = TOKENS.windows(text)
    assert not [window for window in windows if UNKNOWN in window.ids]
    assert all(0 <= window.span.start <= window.span.end <= len(text) for window in windows)


@given(st.lists(st.sampled_from(["😀", "kill", "𝗠", "ok", " ", "你"]), max_size=12).map("".join))
def test_windows_of_two_tokens_cover_the_text_in_order(text: str) -> None:
    spans = [window.span for window in TOKENS.windows(text, size=4, overlap=0)]
    assert all(one.start <= other.start and one.end <= other.end for one, other in itertools.pairwise(spans))


def test_a_word_of_hundreds_of_letters_is_read_in_pieces() -> None:
    text = f"say {'deadbeef' * 40} now"
    window = TOKENS.windows(text)[0]
    assert UNKNOWN not in window.ids
    assert (window.span.start, window.span.end) == (0, len(text))


def test_plain_ascii_is_left_as_it_is() -> None:
    assert TOKENS._signs.spelled("Just a text.") == ("Just a text.", None)
