"""The decision: total, deterministic, monotone; errors and unreadable parts are never a silent pass."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from guardrail.decision import decide
from guardrail.types import Action, Fallback, Mode, Part, Verdict

PARTS = st.builds(Part, path=st.just("messages[0].content"), text=st.none(), choice=st.none() | st.integers(0, 2))


def _verdict(score: float | None, error: str | None = None, **changes: object) -> Verdict:
    made = Verdict("p", "1.0.0", "sha256:0", 0.5, "messages[0].content", "c", score=score, error=error)
    return replace(made, **changes)


@st.composite
def verdicts(draw: st.DrawFn) -> Verdict:
    failed = draw(st.booleans())
    return _verdict(
        None if failed else draw(st.floats(0, 1)),
        draw(st.sampled_from(["timeout", "crash"])) if failed else None,
        threshold=draw(st.floats(0, 1)),
        action=draw(st.sampled_from(Action)),
        mode=draw(st.sampled_from(Mode)),
        choice=draw(st.none() | st.integers(0, 2)),
    )


RULES = st.fixed_dictionaries(
    {"on_error": st.sampled_from(Fallback), "on_unscannable": st.sampled_from(Fallback), "enforcing": st.booleans()}
)


@given(st.lists(verdicts(), max_size=8), st.lists(PARTS, max_size=2), RULES)
def test_it_is_total_and_neither_order_nor_repetition_matters(found: list[Verdict], unread: list[Part], rules: dict[str, object]) -> None:
    outcome = decide(found, unscannable=unread, **rules)
    assert decide(found[::-1] + found, unscannable=unread[::-1], **rules) == outcome
    assert outcome.shadow >= outcome.action
    assert all(action <= outcome.action for action in outcome.choices.values())
    assert outcome.unjudged == (any(verdict.error for verdict in found) or bool(unread))
    assert not outcome.unavailable or (outcome.action is Action.BLOCK and outcome.unjudged)


@given(st.lists(verdicts(), min_size=1, max_size=8), st.data(), RULES)
def test_a_higher_score_never_weakens_the_outcome(found: list[Verdict], data: st.DataObject, rules: dict[str, object]) -> None:
    place = data.draw(st.integers(0, len(found) - 1))
    if found[place].score is None:
        return
    raised = [*found]
    raised[place] = replace(found[place], score=data.draw(st.floats(found[place].score, 1)))
    before, after = decide(found, **rules), decide(raised, **rules)
    assert after.action >= before.action
    assert after.shadow >= before.shadow
    assert all(after.choices.get(choice, Action.PASS) >= action for choice, action in before.choices.items())


@given(st.lists(verdicts(), max_size=8), verdicts(), RULES)
def test_a_further_verdict_never_weakens_the_outcome(found: list[Verdict], more: Verdict, rules: dict[str, object]) -> None:
    assert decide([*found, more], **rules).action >= decide(found, **rules).action


@given(st.lists(verdicts(), max_size=8), RULES)
def test_shadow_verdicts_change_nothing_that_is_enforced(found: list[Verdict], rules: dict[str, object]) -> None:
    enforced = [verdict for verdict in found if verdict.mode is Mode.ENFORCE]
    assert decide(found, **rules).action == decide(enforced, **rules).action
    assert decide(found, **rules).choices == decide(enforced, **rules).choices


def test_the_threshold_itself_violates() -> None:
    assert decide([_verdict(0.5)]).action is Action.BLOCK
    assert decide([_verdict(0.4999)]).action is Action.PASS


def test_an_error_blocks_unless_the_route_says_otherwise_and_is_recorded_either_way() -> None:
    blocked, passed = decide([_verdict(None, "timeout")]), decide([_verdict(None, "timeout")], on_error=Fallback.PASS)
    assert (blocked.action, blocked.unjudged, blocked.unavailable) == (Action.BLOCK, True, True)
    assert (passed.action, passed.unjudged, passed.unavailable) == (Action.PASS, True, False)


def test_a_violation_beside_an_error_is_a_violation() -> None:
    outcome = decide([_verdict(None, "crash"), _verdict(0.9)])
    assert (outcome.action, outcome.unavailable) == (Action.BLOCK, False)


def test_an_annotation_beside_an_error_is_still_blocked_for_the_error_alone() -> None:
    outcome = decide([_verdict(None, "crash"), _verdict(0.9, action=Action.ANNOTATE)])
    assert (outcome.action, outcome.unavailable) == (Action.BLOCK, True)


def test_an_unreadable_part_blocks_its_choice_and_only_where_something_is_enforced() -> None:
    part = Part("choices[1].message.audio", None, choice=1)
    assert decide([], unscannable=[part]).choices == {1: Action.BLOCK}
    assert decide([], unscannable=[part], on_unscannable=Fallback.PASS).action is Action.PASS
    watched = decide([], unscannable=[part], enforcing=False)
    assert (watched.action, watched.shadow, watched.unjudged) == (Action.PASS, Action.BLOCK, True)


def test_only_the_offending_choice_is_blocked() -> None:
    outcome = decide([_verdict(0.9, choice=1), _verdict(0.1, choice=0)])
    assert outcome.choices == {1: Action.BLOCK}
