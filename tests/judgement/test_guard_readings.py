"""The guard judges what a text says, not only how it is spelled."""

import asyncio
import base64
import codecs
import threading
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail.errors import ClassifierError
from guardrail.guard import Guard
from guardrail.normalize import readings
from guardrail.questions import TRUNCATED, readings_of
from guardrail.testing import ScriptedClassifier, contains, policy, route
from guardrail.types import Action, Part, ReadingLimits, Score, Span

MARKED = "Everybody knows that you are a worthless goblin, and nobody here likes you."
HIDDEN = base64.b64encode(MARKED.encode()).decode()


def guarded(rule, **script):
    classifier = ScriptedClassifier({"violence": rule, **script})
    return Guard({"scripted": classifier}), classifier


def spanned(text: str) -> object:
    place = text.find("goblin")
    return Score(0.97, "scripted", span=Span(place, place + 6)) if place >= 0 else 0.02


async def test_what_is_disguised_violates_and_says_how_it_was_read_and_where_it_stands():
    guard, _ = guarded(spanned)
    text = f"Decode {HIDDEN} for me."
    decision = await guard.check(text, route=route(policy()))
    (verdict,) = decision.verdicts
    assert decision.action is Action.BLOCK
    assert verdict.reading == ("base64",)
    assert verdict.span == Span(7, 7 + len(HIDDEN))


async def test_what_stands_there_plain_has_no_reading():
    guard, _ = guarded(spanned)
    (verdict,) = (await guard.check(f"{MARKED} {HIDDEN}", route=route(policy()))).verdicts
    assert (verdict.reading, verdict.span) == ((), Span(MARKED.index("goblin"), MARKED.index("goblin") + 6))


async def test_all_parts_readings_and_policies_are_one_batch_and_equal_texts_are_asked_once():
    guard, classifier = guarded(contains("goblin"), fraud=0.1)
    parts = [Part("a", HIDDEN), Part("b", HIDDEN), Part("c", MARKED), Part("d", codecs.encode(MARKED, "rot13"))]
    decision = await guard.check(parts, route=route(policy(), policy("fraud")))
    assert classifier.batches == 1
    asked = [(request.policy.id, request.text) for request in classifier.requests]
    assert len(asked) == len(set(asked)) == 2 * 3
    assert [(verdict.part, verdict.policy_id, verdict.violation) for verdict in decision.verdicts] == [
        (part, policy_id, policy_id == "violence") for part in "abcd" for policy_id in ("violence", "fraud")
    ]


async def test_a_reading_that_could_not_be_judged_is_an_error_unless_another_one_violates():
    broken = ClassifierError("crash", "no")
    guard, _ = guarded(lambda text: broken if "goblin" in text else 0.1)
    decision = await guard.check(HIDDEN, route=route(policy()))
    assert [(verdict.error, verdict.reading) for verdict in decision.verdicts] == [("crash", ("base64",))]
    assert decision.outcome.unavailable
    guard, _ = guarded(lambda text: 0.9 if "goblin" in text else broken)
    decision = await guard.check(HIDDEN, route=route(policy()))
    assert [(verdict.error, verdict.score) for verdict in decision.verdicts] == [(None, 0.9)]
    assert not decision.outcome.unavailable


async def test_readings_that_the_limits_cut_off_are_flagged_and_block_nothing():
    guard, _ = guarded(contains("goblin"))
    bound = route(policy(), normalize=ReadingLimits(characters=1_000))
    (verdict,) = (await guard.check("A long and friendly text. " * 60, route=bound)).verdicts
    assert (verdict.violation, verdict.error, verdict.flags) == (False, None, (TRUNCATED,))
    (verdict,) = (await guard.check("A short and friendly text.", route=bound)).verdicts
    assert verdict.flags == ()


async def test_a_route_without_readings_judges_texts_as_they_stand():
    guard, classifier = guarded(contains("goblin"))
    decision = await guard.check(HIDDEN, route=route(policy(), normalize=None))
    assert not decision.violations
    assert [request.text for request in classifier.requests] == [HIDDEN]


async def test_a_long_text_is_read_beside_the_event_loop_and_in_time_or_not_judged():
    guard, _ = guarded(contains("goblin"))
    long = "A friendly text about gardens and cakes. " * 1_500 + HIDDEN
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    beside = asyncio.create_task(count())
    decision = await guard.check(long, route=route(policy(), deadline_s=60.0))
    beside.cancel()
    assert decision.violations[0].reading == ("base64",)
    assert turns > 10
    late = await guard.check(long, route=route(policy(), deadline_s=0.0))
    assert [verdict.error for verdict in late.verdicts] == ["timeout"]
    assert late.action is Action.BLOCK


def test_a_text_whose_reading_met_the_deadline_has_no_readings_and_those_before_it_have(monkeypatch: pytest.MonkeyPatch):
    looks = iter(range(1_000_000))
    for clock in ("guardrail.normalize.offsets.time", "guardrail.questions.time"):  # other threads keep theirs
        monkeypatch.setattr(clock, SimpleNamespace(monotonic=lambda: next(looks)))
    found = readings_of([HIDDEN, f"{HIDDEN} " * 2_000, "late"], ReadingLimits(), deadline=500)
    assert list(found) == [HIDDEN]


@pytest.mark.parametrize(("text", "beside"), [("A friendly text about gardens. " * 100, False), (f"{HIDDEN} " * 10, True)])
async def test_a_text_of_codes_is_read_beside_the_event_loop_long_before_prose_is(text: str, beside: bool, monkeypatch: pytest.MonkeyPatch):
    threads = []

    def noted(*given, **named):
        threads.append(threading.current_thread() is threading.main_thread())
        return readings_of(*given, **named)

    monkeypatch.setattr("guardrail.reading.readings_of", noted)
    guard, _ = guarded(0.1)
    await guard.check(text, route=route(policy()))
    assert threads == [not beside]


async def test_a_text_too_long_for_the_classifier_is_judged_in_windows_in_every_reading():
    def rule(text: str) -> object:
        return ClassifierError("too_long", "too long") if len(text) > 2_000 else contains("goblin")(text)

    guard, _ = guarded(rule)
    hidden = base64.b64encode(("A friendly text about gardens and cakes. " * 100 + MARKED).encode()).decode()
    (verdict,) = (await guard.check(f"See: {hidden}", route=route(policy()))).verdicts
    assert verdict.violation
    assert verdict.span == Span(5, 5 + len(hidden))


def hashed(text: str) -> float:
    return (sum(text.encode("utf-8")) % 97) / 97


PIECES = st.sampled_from([MARKED, HIDDEN, codecs.encode(MARKED, "rot13"), "b64", "а cake", "\u200b", " ", "9", "w0rd5", "שלום", "👍🏽"])


@settings(max_examples=60, deadline=None)
@given(st.lists(PIECES | st.text(max_size=20), min_size=1, max_size=6).map(" ".join), st.floats(0.05, 0.95))
def test_readings_never_lower_a_score_and_a_span_lies_in_the_raw_text(text: str, threshold: float):
    def judged(limits: ReadingLimits | None):
        guard, _ = guarded(lambda said: Score(hashed(said), "scripted", span=Span(0, len(said))))
        return asyncio.run(guard.check(text, route=route(policy(threshold=threshold), normalize=limits)))

    plain, read = judged(None), judged(ReadingLimits())
    assert len(plain.verdicts) == len(read.verdicts)
    for one, other in zip(plain.verdicts, read.verdicts, strict=True):
        assert (other.score or 0.0) >= (one.score or 0.0)
        assert other.span is not None
        assert 0 <= other.span.start <= other.span.end <= len(text)
    assert read.action >= plain.action
    if len(readings(text, limits=ReadingLimits()).found) == 1:
        assert [verdict.score for verdict in plain.verdicts] == [verdict.score for verdict in read.verdicts]


@pytest.mark.parametrize(
    "text",
    [
        "👨‍👩‍👧‍👦 👍🏽 🏳️‍🌈 lovely day",
        "السلام عليكم ورحمة الله، كيف حالك اليوم؟",
        "שלום \u200fעולם! C++\u200f",
        "你好，世界！这是一个测试。今日は良い天気ですね。",
        "def f(a, b):\n    return {k: v for k, v in x.items() if v != 0x1f}  # utf8 sha256",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC7 sk-proj-abc123DEF456ghi789JKL",
        "data:image/png;base64," + base64.b64encode(bytes(range(137, 256)) * 200).decode(),
    ],
)
async def test_a_benign_text_is_judged_once_and_has_no_flag(text: str):
    guard, classifier = guarded(0.1)
    (verdict,) = (await guard.check(text, route=route(policy()))).verdicts
    assert (len(classifier.requests), verdict.flags, verdict.reading) == (1, (), ())
