"""Turns: which of them are judged, and what the user said in several of them, as one text that knows its pieces."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail.conversation import JOINED, History, Speaker, joined, located, said_by_user, scoped
from guardrail.types import Part, Span

U, A, T, S, O = Speaker.USER, Speaker.ASSISTANT, Speaker.TOOL, Speaker.SYSTEM, Speaker.OTHER  # noqa: E741
ROLES = {U: "user", A: "assistant", T: "tool", S: "system", O: "unknown"}


def conversation(*turns: tuple[Speaker, str]) -> tuple[list[Part], History]:
    parts = [Part(f"messages[{place}].content", text, ROLES[speaker]) for place, (speaker, text) in enumerate(turns)]
    return parts, History("messages", tuple(speaker for speaker, _ in turns))


@pytest.mark.parametrize(
    ("speakers", "latest"),
    [
        ((U,), 0),
        ((U, U), 0),
        ((S, U, A, U), 3),
        ((U, A, T), 2),  # tool results come after the assistant's call
        ((U, A, U, A), 2),  # the assistant is made to begin with something: what it answers comes before that
        ((U, A, A), 0),
        ((A,), 0),
        ((), 0),
    ],
)
def test_the_latest_turn_is_what_came_after_the_assistants_last_message(speakers: tuple[Speaker, ...], latest: int) -> None:
    assert History("messages", speakers).latest == latest


def test_latest_turn_leaves_out_earlier_turns_and_nothing_else() -> None:
    parts, history = conversation((S, "a"), (U, "b"), (O, "c"), (A, "d"), (T, "e"), (S, "f"), (A, "g"), (U, "h"), (A, "i"))
    others = [Part("body.extra", "j"), Part("messages[99].content", "k"), Part("xmessages[1].content", "l")]
    assert "".join(part.text or "" for part in scoped([*parts, *others], history, "latest_turn")) == "acfhijkl"


def test_each_judges_all_turns_and_none_together() -> None:
    parts, history = conversation((U, "a"), (A, "b"), (U, "c"))
    assert scoped(parts, history, "each") == tuple(parts)
    assert len(scoped(parts, history, "all")) == 4


def test_a_turn_is_the_users_entry_with_what_follows_until_the_next() -> None:
    assert History("messages", (S, U, A, T, A, U, U, A)).turns == (range(1, 5), range(5, 6), range(6, 8))
    assert History("messages", (S, A)).turns == ()


def test_what_the_user_said_in_several_turns_is_one_text_and_spans_lead_back() -> None:
    parts, history = conversation((S, "be kind"), (U, "first"), (A, "sure"), (U, " \n"), (U, "second"))
    part = joined(parts, history)
    assert part is not None
    assert (part.text, part.path, part.role) == ("first\nsecond", "messages[1].content+messages[4].content", "user")
    assert located(part, Span(7, 10)) == ("messages[4].content", Span(1, 4))
    assert located(part, Span(0, 5)) == ("messages[1].content", Span(0, 5))
    assert located(part, Span(3, 9)) == (part.path, Span(3, 9))
    assert located(part, None) == (part.path, None)


def test_turns_that_are_stored_come_before_those_of_the_request() -> None:
    stored = [
        Part("previous_response_id[1].input[0].content", "a"),
        Part("previous_response_id[1].output[0].content", "x", "assistant"),
        Part("previous_response_id[0].input[0].content[0].text", "b"),
        Part("previous_response_id[0].input[0].content[1].text", "c"),
        Part("previous_response_id[0].input[0].content[*]", "bc"),
    ]
    parts, history = conversation((S, "s"), (U, "d"), (A, "e"), (U, "f"))
    found = scoped(parts, history, "all", stored)
    assert found[:-1] == (*stored, *parts)
    assert found[-1].text == "a\nbc\nd\nf"
    alone = scoped([Part("instructions", "s", "system"), Part("input", "d")], None, "all", stored)
    assert alone[-1].text == "a\nbc\nd"
    assert located(alone[-1], Span(2, 4)) == ("previous_response_id[0].input[0].content[*]", Span(0, 2))
    for scope in ("each", "latest_turn"):
        assert scoped([Part("input", "d")], None, scope, stored) == (*stored, Part("input", "d"))


def test_one_turn_alone_is_not_joined() -> None:
    assert joined(*conversation((S, "a"), (U, "b"), (A, "c"))) is None


def test_content_parts_count_as_the_text_that_they_make() -> None:
    history = History("messages", (U, U))
    parts = [
        Part("messages[0].content[0].text", "a"),
        Part("messages[0].content[1].text", "bcdef"),
        Part("messages[0].content[*]", "abcdef"),
    ]
    part = joined([*parts, Part("messages[1].content", "g"), Part("messages[1].name", "ann", kind="name")], history)
    assert part is not None
    assert part.text == "abcdef\ng"


def test_a_long_conversation_names_some_of_its_pieces() -> None:
    part = joined(*conversation(*[(U, "x")] * 300))
    assert part is not None
    assert len(part.path) < 256
    assert len(part.pieces) == 300


TURNS = st.lists(st.tuples(st.sampled_from([U, A, T, S, O]), st.text("ab \n", max_size=30)), min_size=1, max_size=12)


@settings(deadline=None, max_examples=200)
@given(TURNS, st.integers(1, 60), st.data())
def test_joined_texts_are_bounded_and_every_place_in_them_stands_where_it_says(turns: list, most: int, data: st.DataObject) -> None:
    parts, history = conversation(*turns)
    part = joined(parts, history, most)
    if part is None or part.text is None:
        return
    assert 0 < len(part.text) <= most + 1 <= JOINED
    by_path = {each.path: each.text or "" for each in parts}
    start = data.draw(st.integers(0, len(part.text) - 1))
    span = Span(start, data.draw(st.integers(start + 1, len(part.text))))
    path, found = located(part, span)
    assert found is not None
    if path == part.path:
        assert found == span
    else:
        assert part.text[span.start : span.end] in (by_path[path][found.start : found.end] + seam for seam in ("", "\n"))


@settings(deadline=None, max_examples=100)
@given(TURNS)
def test_scopes_never_leave_out_the_latest_turn(turns: list) -> None:
    parts, history = conversation(*turns)
    every, latest = (scoped(parts, history, scope) for scope in ("all", "latest_turn"))
    assert set(parts) <= set(every)
    assert set(parts[history.latest :]) <= set(latest)
    if history.turns:
        assert set(parts[history.turns[-1].start :]) - set(parts[: history.latest]) <= set(latest)


def test_what_the_user_said_is_every_turn_of_theirs_whatever_stands_between() -> None:
    assert said_by_user(*conversation((U, "a"), (A, "b"), (U, "c"), (T, "d"))) == "a\nc"
    assert said_by_user(*conversation((S, "a"))) is None
    assert said_by_user(*conversation((U, "a"), (A, "b"), (U, "c"), (A, "d"), (U, " \n"))) == "a\nc"
    assert said_by_user(*conversation((U, "a"), (A, "b"), (U, "c"), (S, "d"), (O, "e"), (T, "f"), (U, "g"))) == "a\nc\ng"
    assert said_by_user([Part("prompt[0]", "a"), Part("prompt[1]", "b"), Part("suffix", "c", kind="unknown")], None) == "a\nb"


def test_what_the_user_said_in_stored_turns_comes_first() -> None:
    stored = [Part("previous_response_id[1].input[0].content", "a"), Part("previous_response_id[1].output[0].content", "x", "assistant")]
    assert said_by_user(*conversation((U, "b")), stored) == "a\nb"
    assert said_by_user([Part("input", "b")], None, stored) == "a\nb"
