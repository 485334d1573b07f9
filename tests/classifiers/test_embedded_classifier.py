"""The embedded classifier as the guard sees it: one answer a request, shared passes, and an error for whatever cannot be scored."""

import asyncio
import math
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import model_file

from guardrail.classifiers import embedded
from guardrail.classifiers.embedded import EmbeddedClassifier
from guardrail.engine.embedded import scorer as scorer_module
from guardrail.engine.embedded.scorer import Scorer
from guardrail.engine.embedded.weights import load
from guardrail.errors import ClassifierError
from guardrail.interfaces import SupportsProgress
from guardrail.testing import policy
from guardrail.types import ClassifyRequest, Score, Span

ONE, TWO = policy("one", body="one"), policy("two", body="two")


def _later(seconds: float = 30.0) -> float:
    return time.monotonic() + seconds


@pytest.fixture
async def classifier(tmp_path: Path):  # type: ignore[no-untyped-def]
    made = EmbeddedClassifier.load(model_file(tmp_path), precision="float32")
    await made.prepare([ONE, TWO])
    yield made
    await made.aclose()


async def test_answers_come_in_order_with_the_weights_digest(classifier: EmbeddedClassifier) -> None:
    asked = [ClassifyRequest(each, text) for text in ("abc", "xyz") for each in (ONE, TWO)]
    answers = await classifier.classify(asked, deadline=_later())
    again = await classifier.classify(asked[::-1], deadline=_later())
    assert all(isinstance(answer, Score) and answer.classifier == classifier.id for answer in answers)
    assert classifier.id.startswith("embedded@sha256:")
    assert [answer.value for answer in again[::-1]] == pytest.approx([answer.value for answer in answers], abs=1e-5)
    assert await classifier.classify([], deadline=_later()) == []


async def test_callers_at_the_same_time_share_passes(classifier: EmbeddedClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    advance = Scorer.advance

    def counted(self: Scorer, readings) -> None:  # type: ignore[no-untyped-def]
        passes.append(len(readings))
        advance(self, readings)

    monkeypatch.setattr(Scorer, "advance", counted)
    texts = [f"text {number}" for number in range(20)]
    found = await asyncio.gather(*(classifier.classify([ClassifyRequest(ONE, text)], deadline=_later()) for text in texts))
    assert len(found) == sum(passes) == 20
    assert len(passes) <= 2


async def test_a_short_text_does_not_wait_for_long_ones(classifier: EmbeddedClassifier) -> None:
    long = [
        asyncio.create_task(classifier.classify([ClassifyRequest(ONE, f"{number} " + "abc " * 30_000)], deadline=_later()))
        for number in range(3)
    ]
    await asyncio.sleep(0.05)
    (answer,) = await classifier.classify([ClassifyRequest(ONE, "hello")], deadline=_later())
    assert isinstance(answer, Score)
    assert not any(task.done() for task in long)
    for task in long:
        task.cancel()
    await asyncio.gather(*long, return_exceptions=True)


async def test_its_passes_grow_while_it_reads_what_is_not_answered_in_time(classifier: EmbeddedClassifier) -> None:
    assert isinstance(classifier, SupportsProgress)
    before = classifier.passes()
    late = asyncio.create_task(classifier.classify([ClassifyRequest(ONE, "abc " * 60_000)], deadline=_later()))
    while classifier.passes() < before + 3:
        await asyncio.sleep(0.001)
    assert not late.done()
    late.cancel()
    await asyncio.gather(late, return_exceptions=True)


async def test_a_caller_that_has_gone_is_not_read_on(classifier: EmbeddedClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = asyncio.create_task(classifier.classify([ClassifyRequest(ONE, "abc " * 60_000)], deadline=_later()))
    await asyncio.sleep(0.05)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    started = time.monotonic()
    await classifier.classify([ClassifyRequest(ONE, "hello")], deadline=_later())
    monkeypatch.setattr(embedded, "MOST_WAITING", 10)
    (answer,) = await classifier.classify([ClassifyRequest(ONE, "hello there, hello")], deadline=_later())
    assert isinstance(answer, Score), "what had gone still counted as waiting"
    assert time.monotonic() - started < 10


async def test_what_cannot_be_scored_is_an_error_beside_its_neighbours(
    classifier: EmbeddedClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "MOST_CHARACTERS", 10)
    stranger = policy("stranger", body="never prepared")
    asked = [ClassifyRequest(ONE, "abc"), ClassifyRequest(ONE, "a" * 11), ClassifyRequest(stranger, "abc")]
    first, second, third = await classifier.classify(asked, deadline=_later())
    assert isinstance(first, Score)
    assert [error.code for error in (second, third)] == ["too_long", "not_prepared"]


async def test_a_passed_deadline_is_a_timeout_without_work(classifier: EmbeddedClassifier) -> None:
    with pytest.raises(ClassifierError, match="deadline") as caught:
        await classifier.classify([ClassifyRequest(ONE, "abc")], deadline=time.monotonic() - 1)
    assert caught.value.code == "timeout"


async def test_a_long_text_stops_at_its_deadline(classifier: EmbeddedClassifier) -> None:
    asked = [ClassifyRequest(ONE, f"{number} " + "abc " * 2000) for number in range(40)]
    started = time.monotonic()
    with pytest.raises(ClassifierError, match="deadline passed before"):
        await classifier.classify(asked, deadline=_later(0.05))
    assert time.monotonic() - started < 5


async def test_not_a_number_is_an_error(tmp_path: Path) -> None:
    loaded = load(model_file(tmp_path))
    with torch.no_grad():
        loaded.model.head.bias.fill_(float("nan"))
    classifier = EmbeddedClassifier(Scorer(loaded.model, loaded.tokens, loaded.calibration), name="broken")
    await classifier.prepare([ONE])
    (answer,) = await classifier.classify([ClassifyRequest(ONE, "abc")], deadline=_later())
    await classifier.aclose()
    assert isinstance(answer, ClassifierError)
    assert answer.code == "not_a_number"


def test_a_not_a_number_in_one_window_is_not_lost_in_the_next(tmp_path: Path) -> None:
    loaded = load(model_file(tmp_path))
    scorer = Scorer(loaded.model, loaded.tokens, loaded.calibration)
    scorer.prepare([ONE])
    reading = scorer.begin([("abc", ONE)])
    for logit in (-3.0, float("nan"), 5.0):
        reading.note(0, logit, Span(0, 1))
    assert math.isnan(scorer.answers(reading)[0].value)


def test_policies_of_old_generations_go_when_there_are_very_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer_module, "MOST_RESIDENT", 2)
    loaded = load(model_file(tmp_path))
    scorer = Scorer(loaded.model, loaded.tokens, loaded.calibration)
    scorer.prepare([ONE])
    scorer.prepare([TWO])
    assert scorer.is_resident(ONE)
    scorer.prepare([TWO, policy("three", body="three")])
    assert not scorer.is_resident(ONE)
    assert scorer.is_resident(TWO)


def test_policies_of_one_text_are_one_question_unless_their_titles_name_their_labels(tmp_path: Path) -> None:
    loaded = load(model_file(tmp_path))
    scorer = Scorer(loaded.model, loaded.tokens, loaded.calibration)
    twin, other = replace(ONE, id="twin"), replace(ONE, id="other", labels=(replace(ONE.labels[0], name="Quite another thing"),))
    scorer.prepare([ONE, twin, other])
    reading = scorer.begin([("abc", each) for each in (ONE, twin, other)])
    assert len(reading.policies) == 2
    one, same, another = scorer.score([("abc", each) for each in (ONE, twin, other)])
    assert one == same
    alone = Scorer(loaded.model, loaded.tokens, loaded.calibration)
    alone.prepare([other])
    assert another.value == pytest.approx(alone.score([("abc", other)])[0].value, abs=1e-6)
    assert another.value != pytest.approx(one.value, abs=1e-6)


async def test_a_crash_tells_every_waiter_and_the_next_call_works(
    classifier: EmbeddedClassifier, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise MemoryError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(Scorer, "advance", broken)
        calls = [classifier.classify([ClassifyRequest(ONE, f"text {number}")], deadline=_later()) for number in range(5)]
        found = await asyncio.gather(*calls, return_exceptions=True)
    assert {getattr(error, "code", None) for error in found} == {"crash"}
    assert "the embedded classifier failed" in caplog.text
    (answer,) = await classifier.classify([ClassifyRequest(ONE, "abc")], deadline=_later())
    assert isinstance(answer, Score)


async def test_too_much_waiting_is_refused_at_once(classifier: EmbeddedClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "MOST_WAITING", 100)
    calls = [classifier.classify([ClassifyRequest(ONE, f"{number} " + "abc " * 20)], deadline=_later()) for number in range(10)]
    found = await asyncio.gather(*calls, return_exceptions=True)
    codes = [answer.code if isinstance(answer, ClassifierError) else "ok" for answer in found]
    assert "overloaded" in codes
    assert codes[0] == "ok"


async def test_closing_fails_who_waits_and_later_callers(tmp_path: Path) -> None:
    classifier = EmbeddedClassifier.load(model_file(tmp_path), precision="float32")
    await classifier.prepare([ONE])
    calls = [asyncio.create_task(classifier.classify([ClassifyRequest(ONE, "abc " * 3000)], deadline=_later())) for _ in range(4)]
    await asyncio.sleep(0)
    await classifier.aclose()
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(answer, list | ClassifierError) for answer in found)
    with pytest.raises(ClassifierError, match="closed"):
        await classifier.classify([ClassifyRequest(ONE, "abc")], deadline=_later())
    await classifier.aclose()
