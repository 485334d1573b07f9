"""However much text a caller brings, the event loop goes on, and nothing is tokenised for whom nobody waits."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch
from tiny_checkpoints import tiny_checkpoint

from guardrail.classifiers.cope import LONG, CopeClassifier
from guardrail.classifiers.cope_options import CopeOptions
from guardrail.engine.cope.build import build_engine
from guardrail.engine.cope.checkpoint import load_checkpoint
from guardrail.engine.cope.kv import PAGE, KVShape
from guardrail.engine.cope.settings import EngineSettings
from guardrail.engine.cope.tokens import PromptTokens, RowTokens
from guardrail.errors import ClassifierError, ModelFileError
from guardrail.testing import policy
from guardrail.types import ClassifyRequest, Score

RUDE = policy("rude", body="# Policy\n\nContent that insults a neighbour.\n")


@pytest.fixture
async def classifier(tmp_path: Path) -> AsyncIterator[CopeClassifier]:
    settings = EngineSettings(model=str(tmp_path / "model"), kv_bytes=64 << 20, host_bytes=0)
    loaded = load_checkpoint(tiny_checkpoint(tmp_path), device="cpu")
    engine = await build_engine(settings, loaded).open()
    made = CopeClassifier(engine, loaded.tokens, CopeOptions(most_outside=1.0))
    await made.prepare([RUDE])
    yield made
    await made.aclose()


@pytest.fixture
def encoded(classifier: CopeClassifier, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Each text that is encoded, and on which thread."""
    found: list[tuple[str, int]] = []
    row = classifier._prompt.row

    def watched(content: str, body: str | None = None) -> RowTokens:
        found.append((content, threading.get_ident()))
        return row(content, body)

    monkeypatch.setattr(classifier._prompt, "row", watched)
    return found


async def test_a_batch_of_many_texts_leaves_the_event_loop_alone(classifier: CopeClassifier, encoded: list[tuple[str, int]]) -> None:
    texts = [f"{number} " + "calm " * (LONG // 50) for number in range(20)]
    answers = await classifier.classify([ClassifyRequest(RUDE, text) for text in texts * 2], deadline=time.monotonic() + 60)
    assert len(answers) == 40
    assert [text for text, _ in encoded] == texts, "each once"
    here = sum(len(text) for text, thread in encoded if thread == threading.get_ident())
    assert here <= LONG


async def test_texts_whose_turn_comes_too_late_are_not_encoded(classifier: CopeClassifier, encoded: list[tuple[str, int]]) -> None:
    answers = await classifier.classify([ClassifyRequest(RUDE, f"{number}") for number in range(3)], deadline=time.monotonic())
    assert [answer.code for answer in answers if isinstance(answer, ClassifierError)] == ["timeout"] * 3
    assert encoded == []


async def test_a_policy_that_becomes_resident_meanwhile_costs_nobody_an_answer(classifier: CopeClassifier) -> None:
    other = policy("other", body="# Policy\n\nContent about the weather.\n")
    asked = [ClassifyRequest(each, "calm " * LONG) for each in (RUDE, other)]
    asking = asyncio.create_task(classifier.classify(asked, deadline=time.monotonic() + 60))
    await classifier.prepare([other])
    assert len(await asking) == 2


async def test_a_tenants_floor_holds_for_the_policies_that_it_uses(tmp_path: Path) -> None:
    loaded = load_checkpoint(tiny_checkpoint(tmp_path), device="cpu")
    page = KVShape.of(loaded.model.config).bytes_per_token(torch.float32) * PAGE
    floors = {"acme": 12 * page}
    settings = EngineSettings(model="", kv_bytes=24 * page, host_bytes=0, tenant_floor_bytes=floors)
    engine = await build_engine(settings, loaded).open()
    made = CopeClassifier(engine, loaded.tokens, CopeOptions(most_outside=1.0))
    others = [policy(f"other{number}", body=f"# Policy {number}\n\nContent about the weather.\n") for number in range(12)]
    await made.prepare([RUDE])
    await made.classify([ClassifyRequest(RUDE, "x", tenant="acme")], deadline=time.monotonic() + 60)

    for other in others:
        await made.prepare([other])
        await made.classify([ClassifyRequest(other, "x", tenant="busy")], deadline=time.monotonic() + 60)

    await asyncio.sleep(0.2)  # it says how it is ten times a second
    assert engine.health().evictions > 0, "there was not room for all"
    before = engine.health().batches
    (answer,) = await made.classify([ClassifyRequest(RUDE, "y", tenant="acme")], deadline=time.monotonic() + 60)
    assert isinstance(answer, Score)
    await asyncio.sleep(0.2)
    assert engine.health().batches == before + 1, "its policy had to be run again"
    await made.aclose()


def test_prompts_that_the_engines_model_was_not_loaded_with_are_refused(tmp_path: Path) -> None:
    settings = EngineSettings(model=str(tmp_path / "model"), kv_bytes=64 << 20, host_bytes=0)
    loaded = load_checkpoint(tiny_checkpoint(tmp_path), device="cpu")
    engine = build_engine(settings, loaded)
    assert engine.info.prompt == loaded.tokens.digest
    with pytest.raises(ModelFileError, match="template"):
        CopeClassifier(engine, PromptTokens(loaded.tokenizer, "wmf"))


async def test_a_growing_texts_settled_lines_are_encoded_once(classifier: CopeClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    encode = classifier._prompt._spelling.encode
    monkeypatch.setattr(classifier._prompt._spelling, "encode", lambda text: lengths.append(len(text)) or encode(text))
    session = classifier.session([RUDE])
    for _ in range(20):
        answers = await session.extend("The library opens at nine on weekdays.\n", deadline=time.monotonic() + 60, final=True)
        assert answers is not None
    await session.aclose()
    assert max(lengths) < 200, "two lines and the question, never the whole"
    (whole,) = await classifier.classify(
        [ClassifyRequest(RUDE, "The library opens at nine on weekdays.\n" * 20)], deadline=time.monotonic() + 60
    )
    assert isinstance(whole, Score)
    assert isinstance(answers[0], Score)
    assert answers[0].value == pytest.approx(whole.value, abs=1e-4)
