"""The cache of scores: what it holds is what would be said again, of the same tenant's same question, and nothing else."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail.canary import Canary, check_canary
from guardrail.errors import ClassifierError
from guardrail.events import CacheUsed, EventFanout
from guardrail.guard import Guard
from guardrail.testing import RecordingSink, ScriptedClassifier, contains, policy, route
from guardrail.types import Action, Check, ClassifyRequest, Decision, Escalation, Part, Provenance, Score, Span, Stage
from guardrail.verdict_cache import VerdictCache

VIOLENCE, INSULTS = policy("violence"), policy("insults")
ROUTE = route(VIOLENCE, INSULTS)
SCORE = Score(0.5, "scripted")


def cache(entries: int = 1_000, size: int = 10_000_000, max_age_s: float = 60.0) -> VerdictCache:
    return VerdictCache(entries=entries, size=size, max_age_s=max_age_s)


def key(held: VerdictCache, text: str, **changes: object):
    (found,) = held.keys([replace(ClassifyRequest(VIOLENCE, text, tenant="acme"), **changes)], "scripted", "scripted@1")
    return found


async def test_a_known_score_is_not_asked_for_again_and_gives_the_same_verdict() -> None:
    rich = Score(0.9, "scripted@1", Span(1, 3), "threats", ("odd",), Provenance("A", "t", "m", "", "bf16", 64, 0.01))
    classifier, sink = ScriptedClassifier({"violence": lambda _: rich, "insults": 0.1}), RecordingSink()
    guard = Guard({"scripted": classifier}, EventFanout([sink]), cache=cache())
    first = await guard.check("attack", route=ROUTE)
    again = await guard.check([Part("messages[4].content", "attack"), Part("b", "new")], route=ROUTE, stage=Stage.OUTPUT)
    assert [(request.policy.id, request.text) for request in classifier.requests] == [
        ("violence", "attack"), ("insults", "attack"), ("violence", "new"), ("insults", "new"),
    ]  # fmt: skip
    assert again.verdicts[0] == replace(first.verdicts[0], part="messages[4].content")
    assert sink.of(CacheUsed) == [CacheUsed(0, 2, 0), CacheUsed(2, 2, 0)]
    assert classifier.batches == 2


async def test_what_is_all_known_asks_nobody() -> None:
    classifier = ScriptedClassifier({"violence": contains("attack")})
    guard = Guard({"scripted": classifier}, cache=cache())
    for _ in range(3):
        assert (await guard.check("attack", route=ROUTE)).action is Action.BLOCK
        classifier.fault = RuntimeError("gone")
    assert classifier.batches == 1


async def test_errors_are_never_remembered() -> None:
    classifier = ScriptedClassifier({"*": contains("attack")}, fault=ClassifierError("overloaded", "full"))
    guard = Guard({"scripted": classifier}, cache=cache())
    assert (await guard.check("attack", route=ROUTE)).outcome.unavailable
    classifier.fault = None
    assert [verdict.score for verdict in (await guard.check("attack", route=ROUTE)).verdicts] == [0.97, 0.97]


async def test_one_tenants_scores_answer_no_other_tenant() -> None:
    classifier = ScriptedClassifier()
    guard = Guard({"scripted": classifier}, cache=cache())
    for tenant in ("acme", "orbit", "acme"):
        await guard.check("hello", route=ROUTE, tenant=tenant)
    assert [request.tenant for request in classifier.requests] == ["acme", "acme", "orbit", "orbit"]


async def test_another_wording_of_a_policy_is_asked_anew() -> None:
    classifier = ScriptedClassifier({"violence": contains("attack")})
    guard = Guard({"scripted": classifier}, cache=cache())
    await guard.check("attack", route=route(VIOLENCE))
    await guard.check("attack", route=route(policy("violence", body="# Policy\nSomething else.\n")))
    await guard.check("attack", route=route(policy("other_id", body=VIOLENCE.body)))  # fixed categories go by id
    assert len(classifier.requests) == 3


async def test_another_threshold_action_or_mode_is_a_new_verdict_of_the_same_score() -> None:
    classifier = ScriptedClassifier({"violence": 0.6})
    guard = Guard({"scripted": classifier}, cache=cache())
    assert (await guard.check("hello", route=route(Check(VIOLENCE, 0.5)))).action is Action.BLOCK
    assert (await guard.check("hello", route=route(Check(VIOLENCE, 0.7)))).action is Action.PASS
    assert (await guard.check("hello", route=route(Check(VIOLENCE, 0.5, Action.ANNOTATE)))).action is Action.ANNOTATE
    assert classifier.batches == 1


async def test_an_escalations_answers_are_kept_under_its_own_classifier() -> None:
    first, judge = ScriptedClassifier({"*": 0.5}, id="same"), ScriptedClassifier({"*": 0.9}, id="same")
    guard = Guard({"scripted": first, "judge": judge}, cache=cache())
    doubtful = replace(ROUTE, escalation=Escalation("judge", 0.4, 0.6))
    for _ in range(2):
        assert {verdict.score for verdict in (await guard.check("hello", route=doubtful)).verdicts} == {0.9}
        assert {verdict.score for verdict in (await guard.check("hello", route=ROUTE)).verdicts} == {0.5}
    assert (first.batches, judge.batches) == (1, 1)


async def test_other_weights_are_asked_anew() -> None:
    held = cache()
    for name in ("scripted@1", "scripted@2"):
        classifier = ScriptedClassifier(id=name)
        await Guard({"scripted": classifier}, cache=held).check("hello", route=ROUTE)
        assert classifier.batches == 1


async def test_a_known_pair_is_put_to_the_classifier_itself() -> None:
    classifier = ScriptedClassifier({"*": contains("attack")})
    canary = Canary(VIOLENCE, "attack", "hello")
    assert (await check_canary(classifier, canary, name="scripted")).ok
    classifier.fault = "not_a_number"
    assert not (await check_canary(classifier, canary, name="scripted")).ok


async def test_very_many_questions_let_others_have_their_turn_and_come_in_order() -> None:
    classifier = ScriptedClassifier({"*": lambda text: int(text) / 10_000})
    guard = Guard({"scripted": classifier}, cache=cache(entries=100_000))
    half = [Part(str(number), str(number)) for number in range(0, 3_000, 2)]
    await guard.check(half, route=ROUTE)
    decision = await guard.check([Part(str(number), str(number)) for number in range(3_000)], route=ROUTE)
    assert [verdict.score for verdict in decision.verdicts[::2]] == [number / 10_000 for number in range(3_000)]
    assert len(classifier.requests) == 6_000


def test_the_least_recently_used_go_first() -> None:
    held = cache(entries=2)
    first, second, third = (key(held, text) for text in "abc")
    assert [held.put(each, SCORE, 0.0) for each in (first, second)] == [0, 0]
    assert held.get(first, 1.0) is SCORE
    assert held.put(third, SCORE, 2.0) == 1
    assert [held.get(each, 3.0) for each in (first, second, third)] == [SCORE, None, SCORE]


def test_bytes_are_bounded_too_and_what_alone_is_too_large_is_not_held() -> None:
    held = cache(size=5_000)
    for number in range(100):
        held.put(key(held, str(number)), SCORE, 0.0)
        assert held.size <= 5_000
    assert 1 < len(held) < 10
    before = len(held)
    assert held.put(key(held, "x"), Score(0.5, "c", criterion="y" * 6_000), 0.0) == 0
    assert len(held) == before


def test_an_old_score_is_asked_for_again() -> None:
    held = cache(max_age_s=10.0)
    one = key(held, "a")
    held.put(one, SCORE, 100.0)
    assert held.get(one, 109.9) is SCORE
    assert held.get(one, 110.0) is None
    assert (len(held), held.size) == (0, 0)


def test_what_no_policy_in_force_asks_is_forgotten() -> None:
    held = cache()
    ours, theirs, old = key(held, "a"), key(held, "a", tenant="orbit"), key(held, "a", policy=INSULTS)
    for each in (ours, theirs, old):
        held.put(each, SCORE, 0.0)
    assert held.keep({"acme": frozenset([VIOLENCE.key]), "orbit": frozenset()}) == 2
    assert [held.get(each, 0.0) for each in (ours, theirs, old)] == [SCORE, None, None]


def test_no_text_is_held_and_digests_are_of_this_process_alone() -> None:
    one, other = key(cache(), "a secret text"), key(cache(), "a secret text")
    assert one.text != other.text
    assert "secret" not in repr(one)
    held = cache()
    assert key(held, "a", context="b") != key(held, "a", context="c") != key(held, "a")
    assert key(held, "a", context="") != key(held, "a")


@pytest.mark.parametrize("bounds", [{"entries": 0}, {"size": 0}, {"max_age_s": 0.0}])
def test_bounds_that_hold_nothing_are_refused(bounds: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        cache(**bounds)


WORDINGS = [(policy("violence", body=f"# Policy {number}"), policy("insults", body=f"# Policy {number + 10}")) for number in range(3)]
STEPS = st.lists(
    st.tuples(
        st.lists(st.sampled_from(["attack", "fool", "hello", "attack fool", "x" * 900]), min_size=1, max_size=4),
        st.integers(0, 2), st.sampled_from(["acme", "orbit"]), st.sampled_from(Stage), st.booleans(),
    ),
    min_size=1, max_size=12,
)  # fmt: skip


def judging(seed: int, *, held: VerdictCache | None) -> Guard:
    """A guard whose classifiers say the same of the same question, as a real one does, and fail at some."""

    class Consistent(ScriptedClassifier):
        def _answer(self, request: ClassifyRequest) -> object:
            if len(request.text) > 800:
                return ClassifierError("too_long", "too long")
            chance = random.Random(f"{seed}:{self.id}:{request.policy.body}:{request.text}")
            return chance.choice([*(Score(value, self.id) for value in (0.02, 0.45, 0.5, 0.97)), ClassifierError("not_a_number", "none")])

    return Guard({name: Consistent(id=name) for name in ("scripted", "judge")}, cache=held)


def told(decision: Decision) -> object:
    return decision.outcome, decision.verdicts


@settings(deadline=None, max_examples=60)
@given(STEPS, st.integers(0, 1_000), st.sampled_from([1, 3, 1_000]))
async def test_decisions_are_the_same_with_and_without_a_cache(steps: Sequence[tuple], seed: int, entries: int) -> None:
    held = cache(entries=entries)
    plain, remembering = judging(seed, held=None), judging(seed, held=held)
    for texts, wording, tenant, stage, publishes in steps:
        under = route(*WORDINGS[wording], escalation=Escalation("judge", 0.4, 0.5))
        if publishes:
            held.keep({tenant: frozenset(each.key for each in WORDINGS[wording])})
        parts = [Part(str(place), text) for place, text in enumerate(texts)]
        one, other = [await guard.check(parts, route=under, stage=stage, tenant=tenant) for guard in (plain, remembering)]
        assert told(one) == told(other)
        assert len(held) <= entries


def test_what_only_another_policy_of_the_same_text_asks_is_forgotten() -> None:
    held = cache()
    ours, twin = key(held, "a"), key(held, "a", policy=policy("twin", body=VIOLENCE.body))
    for each in (ours, twin):
        held.put(each, SCORE, 0.0)
    assert held.keep({"acme": frozenset([VIOLENCE.key])}) == 1
    assert (held.get(ours, 0.0), held.get(twin, 0.0)) == (SCORE, None)
