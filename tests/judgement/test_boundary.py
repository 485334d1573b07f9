"""Places to cut a growing text: beside a gap, or between clusters of what is no word any more, and the same whatever comes next."""

import pytest
import regex
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from guardrail.boundary import LONGEST_WORD, cluster_end, cluster_start, last_boundary, whole_code_points

CHARACTERS = st.sampled_from(
    [*"ab. -\r\n\t", "\u00a0", "\u0301", "\u200d", "\ufe0f", "👩", "🇩", "🏽", "日", "。", "क", "\u094d", "ष", "\u0600", "ก", "ำ"]
)
ON_A_BUSY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
TEXTS = st.text(CHARACTERS, max_size=40) | st.text(CHARACTERS.filter(lambda character: not character.isspace()), min_size=60, max_size=200)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("one two th", 8),
        ("one two", 4),
        ("one ", 3),
        ("one", None),
        ("on the spot\r\n\r", 13),
        ("on the spot\r\n", 11),
        ("on the spot \u0301x", 11),  # the accent belongs to the space
        ("文字。文字", 3),
        ("x" * 200, 199),
        ("👩\u200d👩\u200d👧" * 30 + "a", 150),
        ("x" * 100 + "🇩🇪🇫🇷", 102),
    ],
)
def test_a_text_is_cut_where_a_reader_would(text: str, place: int | None) -> None:
    assert last_boundary(text, 0, 0, len(text) - 1) == place


@ON_A_BUSY_MACHINE
@example("y" * 30 + "\u0600。\u0301" + "x" * 40, "")
@given(TEXTS, TEXTS)
def test_a_cut_is_between_clusters_and_words_whatever_follows(text: str, follows: str) -> None:
    place = last_boundary(text, 0, 0, len(text) - 1)
    if place is None:
        return
    whole = text + follows
    between = {cluster.start() for cluster in regex.finditer(r"\X", whole)}
    assert place in between
    # A gap in the midst of a cluster is a letter of a word: beside it nothing can be cut.
    gaps = [gap.start() for gap in regex.finditer(r"[\s。]", whole) if {gap.start(), gap.end()} & between]
    in_a_run = place - max((gap + 1 for gap in gaps if gap < place), default=0)
    assert {place - 1, place} & {*gaps} or in_a_run >= LONGEST_WORD - 8


@ON_A_BUSY_MACHINE
@given(TEXTS, st.integers(0, 200))
def test_clusters_are_found_from_any_boundary(text: str, place: int) -> None:
    place = min(place, len(text))
    starts = [0, *(cluster.end() for cluster in regex.finditer(r"\X", text))]
    assert cluster_start(text, 0, place) == max(start for start in starts if start <= place)
    assert cluster_end(text, 0, place) == min(start for start in [*starts, len(text)] if start >= place)


@ON_A_BUSY_MACHINE
@given(st.text(st.characters(), max_size=10), st.integers(0, 20))
def test_halves_of_code_points_meet_again(text: str, at: int) -> None:
    units = text.encode("utf-16-le", "surrogatepass")
    halves = "".join(chr(int.from_bytes(units[place : place + 2], "little")) for place in range(0, len(units), 2))
    first, waiting = whole_code_points(halves[:at])
    second, rest = whole_code_points(waiting + halves[at:])
    assert first + second + rest == units.decode("utf-16-le", "surrogatepass")


@pytest.mark.parametrize("place", [0, 1, 255, 256, 257, 511, 700, 701, 999])
def test_long_runs_are_read_in_blocks_that_change_nothing(place: int) -> None:
    for text in ("🇩" * 1001 + "a", "🇩🇪a" * 334, "a" + "\u0301" * 1000 + "b", "👩\u200d" * 500 + "x"):
        starts = [0, *(cluster.end() for cluster in regex.finditer(r"\X", text))]
        assert cluster_start(text, 0, place) == max(start for start in starts if start <= place)
        assert cluster_end(text, 0, place) == min(start for start in starts if start >= place)
