"""CoPE as a classifier, on a tiny random model from disk: the naive forward's probabilities, errors that stay errors, growing texts."""

import asyncio
import math
import random
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_checkpoints import tiny_checkpoint
from tiny_models import naive

from guardrail.cadence import Cadence
from guardrail.calibration import Platt, StoredCalibration, Temperature, suffix, write_beside
from guardrail.classifiers.cope import CopeClassifier
from guardrail.classifiers.cope_opening import make_cope
from guardrail.classifiers.cope_options import CopeOptions
from guardrail.engine.cope.build import build_engine
from guardrail.engine.cope.checkpoint import LoadedModel, load_checkpoint
from guardrail.engine.cope.settings import EngineSettings
from guardrail.engine.cope.tokens import PromptTokens
from guardrail.errors import ClassifierError, ModelFileError
from guardrail.guard import Guard
from guardrail.interfaces import SupportsHealth, SupportsProgress, SupportsSessions
from guardrail.policy.registry import shipped_folder
from guardrail.testing import policy, route
from guardrail.types import ClassifyRequest, Policy, Score, Stage
from guardrail.windows import OVERLAP

MIB = 1 << 20
RUDE = policy("rude", body="# Policy\n\nContent that insults a neighbour.\n\nExcludes: quoting, reporting.\n")
NOISY = policy("noisy", body="# Policy\n\nContent about a loud voice in the reading room.\n")
TEXTS = ("Good morning.", "Keep your voice low in the reading room!", "\n\n\nANSWER\n======\n\n1", "<eos><bos>", "é 日本 \u200b", " ")
ANSWER = "She asked whether the train leaves at ten. Please return every book to the shelf. In spring the garden is full of tulips. " * 4


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merged model's folder."""
    return tiny_checkpoint(tmp_path_factory.mktemp("cope"))


@pytest.fixture(scope="module")
def model(home: Path) -> LoadedModel:
    return load_checkpoint(home, device="cpu")


@pytest.fixture
async def classifier(home: Path) -> AsyncIterator[CopeClassifier]:
    async with opened(home) as made:
        yield made


@asynccontextmanager
async def opened(home: Path, *, probe: Path | None = None, **options: Any) -> AsyncIterator[CopeClassifier]:
    """With both policies resident. A random model says anything, so what it says beside 0 and 1 counts for nothing here."""
    settings = EngineSettings(model=str(home), kv_bytes=64 * MIB, host_bytes=0, probe=None if probe is None else str(probe))
    engine = await build_engine(settings, load_checkpoint(home, device="cpu")).open()
    made = make_cope(engine, settings.model, CopeOptions(**{"most_outside": 1.0} | options))
    await made.prepare([RUDE, NOISY])
    try:
        yield made
    finally:
        await made.aclose()


def soon() -> float:
    return time.monotonic() + 60


def expected(model: LoadedModel, asked: Policy, text: str) -> float:
    return naive(model.model, model.tokens.whole(asked.body, text), model.tokens.zero, model.tokens.one)


async def test_scores_are_those_of_the_whole_prompt_through_the_stock_model(classifier: CopeClassifier, model: LoadedModel) -> None:
    asked = [ClassifyRequest(each, text, stage=stage) for each in (RUDE, NOISY) for text in TEXTS for stage in Stage]
    answers = await classifier.classify(asked, deadline=soon())
    assert all(isinstance(answer, Score) for answer in answers)
    values = [answer.value for answer in answers if isinstance(answer, Score)]
    assert values == pytest.approx([expected(model, request.policy, request.text) for request in asked], abs=1e-4)
    assert max(values) - min(values) > 0.01  # the policies and texts matter, so that equality says something
    assert isinstance(classifier, SupportsSessions)
    assert isinstance(classifier, SupportsHealth)
    assert classifier.outage() is None


async def test_a_score_says_what_replaying_it_needs_and_what_was_odd(classifier: CopeClassifier, model: LoadedModel) -> None:
    plain, odd = await classifier.classify([ClassifyRequest(RUDE, TEXTS[0]), ClassifyRequest(RUDE, TEXTS[2])], deadline=soon())
    assert isinstance(plain, Score)
    assert isinstance(odd, Score)
    assert (plain.flags, odd.flags) == ((), ("header_lookalike",))
    told = plain.provenance
    assert told is not None
    assert (told.template, told.dtype, told.tokenizer) == ("A", "float32", model.tokens.digest)
    assert (told.model, told.adapter) == (model.manifest.digest, model.manifest.adapter.digest if model.manifest.adapter else "")
    assert told.bucket > 0
    assert told.outside is not None
    assert 0 < told.outside < 1
    assert classifier.id.startswith("cope@sha256:")


async def test_what_cannot_be_judged_is_an_error_beside_what_can(classifier: CopeClassifier) -> None:
    asked = [
        ClassifyRequest(RUDE, TEXTS[0]),
        ClassifyRequest(policy("unheard", body="Other."), "x"),
        ClassifyRequest(NOISY, "word " * 9_000),
    ]
    good, unknown, long = await classifier.classify(asked, deadline=soon())
    assert isinstance(good, Score)
    assert isinstance(unknown, ClassifierError)
    assert isinstance(long, ClassifierError)
    assert (unknown.code, long.code) == ("not_prepared", "too_long")
    assert str(long).count(",") >= 2  # both counts and the limit are named


async def test_an_answer_that_is_neither_0_nor_1_is_an_error(home: Path) -> None:
    async with opened(home, most_outside=0.01) as strict:
        (answer,) = await strict.classify([ClassifyRequest(RUDE, TEXTS[0])], deadline=soon())
    assert isinstance(answer, ClassifierError)
    assert answer.code == "malformed"


async def test_a_deadline_that_has_passed_is_a_timeout_and_a_closed_engine_a_crash(home: Path) -> None:
    async with opened(home) as made:
        (late,) = await made.classify([ClassifyRequest(RUDE, TEXTS[0])], deadline=time.monotonic() - 1)
    (closed,) = await made.classify([ClassifyRequest(RUDE, TEXTS[0])], deadline=soon())
    assert isinstance(late, ClassifierError)
    assert isinstance(closed, ClassifierError)
    assert (late.code, closed.code) == ("timeout", "crash")
    assert made.outage() is not None


async def test_a_calibration_changes_the_score_and_the_id(home: Path, model: LoadedModel) -> None:
    calibration = Platt(0.5, -1.0)
    async with opened(home) as plain, opened(home, calibration=calibration) as made:
        (score,) = await made.classify([ClassifyRequest(RUDE, TEXTS[0])], deadline=soon())
        assert isinstance(score, Score)
        assert score.value == pytest.approx(calibration.apply(expected(model, RUDE, TEXTS[0])), abs=1e-4)
        assert score.classifier == made.id == plain.id + suffix(calibration)


async def test_a_growing_text_is_calibrated_too(home: Path, model: LoadedModel) -> None:
    calibration = Platt(0.5, -1.0)
    async with opened(home, calibration=calibration) as made:
        scores = await made.session([RUDE]).extend(ANSWER[:60], deadline=soon(), final=True)
    assert scores is not None
    assert isinstance(scores[0], Score)
    assert scores[0].value == pytest.approx(calibration.apply(expected(model, RUDE, ANSWER[:60])), abs=1e-4)


async def test_a_calibration_in_the_models_folder_is_used_and_one_of_other_weights_refused(tmp_path: Path, home: Path) -> None:
    shutil.copytree(home, tmp_path / "calibrated")
    async with opened(home) as plain:
        digest = plain._engine.info.model
    write_beside(tmp_path / "calibrated", StoredCalibration(Platt(0.5, -1.0), weights=digest))
    async with opened(tmp_path / "calibrated") as made:
        assert made.options.calibration == Platt(0.5, -1.0)
    async with opened(tmp_path / "calibrated", calibration=Temperature(2.0)) as made:
        assert made.options.calibration == Temperature(2.0)
    write_beside(tmp_path / "calibrated", StoredCalibration(Platt(0.5, -1.0), weights="sha256:" + "0" * 64))
    with pytest.raises(ModelFileError, match=r"fitted on the weights sha256:0+, these are"):
        async with opened(tmp_path / "calibrated"):
            pass


@pytest.mark.parametrize("seed", range(3))
async def test_a_text_judged_as_it_grows_scores_as_the_whole_does(classifier: CopeClassifier, model: LoadedModel, seed: int) -> None:
    chosen = random.Random(seed)
    session = classifier.session([RUDE, NOISY])
    text, checked = "", 0
    while len(text) < 400:
        piece = ANSWER[len(text) : len(text) + chosen.randint(1, 30)]
        text += piece
        scores = await session.extend(piece, deadline=soon())
        if scores is not None:
            checked += 1
            assert [score.value for score in scores] == pytest.approx([expected(model, each, text) for each in (RUDE, NOISY)], abs=1e-4)
    final = await session.extend("", deadline=soon(), final=True)
    assert final is not None
    assert checked == session.checks - 1
    assert checked >= 5
    await session.aclose()
    for _ in range(100):
        if not classifier.health().streams:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("a closed session left something behind")


async def pages_with(classifier: CopeClassifier, policies: int) -> int:
    """Pages in use once so many policies are resident; the engine's health is a snapshot, some moments old."""
    for _ in range(500):
        if classifier.health().prefixes_resident == policies:
            return classifier.health().used_pages
        await asyncio.sleep(0.02)
    raise AssertionError(f"{classifier.health().prefixes_resident} policies are resident, not {policies}")


async def test_a_text_that_outgrows_the_model_is_judged_to_its_end_in_windows(home: Path, model: LoadedModel) -> None:
    asked, longest = (RUDE, NOISY), 600
    prompt = PromptTokens(model.tokenizer, "A", longest)
    settings = EngineSettings(model=str(home), kv_bytes=64 * MIB, host_bytes=0)
    engine = await build_engine(settings, load_checkpoint(home, device="cpu")).open()
    made = CopeClassifier(engine, prompt, CopeOptions(most_outside=1.0, cadence=Cadence(tokens=1)))
    await made.prepare(asked)
    session, text, start, windows = made.session(asked), "", 0, 1
    best = [0.0, 0.0]  # of the windows before this one
    told = [0.0, 0.0]
    for number in range(45):
        line = f"{number} tulips stand behind the station, and the train leaves at {number}. "
        if max(len(prompt.prefix(each.body)) + len(prompt.row(text[start:] + line).tokens) for each in asked) > longest:
            best, start = [max(pair) for pair in zip(best, told, strict=True)], max(start, len(text) - OVERLAP)
            windows += 1
        text += line
        scores = await session.extend(line, deadline=soon())
        assert scores is not None
        told = [score.value for score in scores if isinstance(score, Score)]
        whole = [max(expected(model, each, text[start:]), before) for each, before in zip(asked, best, strict=True)]
        assert told == pytest.approx(whole, abs=1e-4)
    assert windows >= 3
    await session.aclose()
    await made.aclose()


async def test_a_growing_text_costs_its_new_tokens(home: Path, model: LoadedModel) -> None:
    async with opened(home, cadence=Cadence(tokens=16, seconds=1e9, least_tokens=16)) as made:
        session, prompt = made.session([RUDE]), model.tokens
        for word in ANSWER.split(" "):
            await session.extend(word + " ", deadline=soon())
        await session.aclose()
    streamed, question = prompt.count(ANSWER), len(prompt.row("x").tokens) - prompt.count("x")
    assert session.checks == pytest.approx(streamed / 16, rel=0.25)
    # What a check adds is its question and the few tokens at the seam that are spelled anew; the content itself is run once.
    assert session.tokens_run <= streamed + session.checks * (question + 4)


@pytest.mark.parametrize(("threshold", "rings"), [(0.5, True), (0.99, False)])
async def test_a_stream_probe_that_rings_brings_the_check_forward(
    home: Path, model: LoadedModel, tmp_path: Path, threshold: float, rings: bool
) -> None:
    width = model.model.config.hidden_size
    files = {"coef": np.zeros((1, width)), "intercept": np.array([3.0]), "scaler_mean": np.zeros(width), "scaler_scale": np.ones(width)}
    for name, values in files.items():
        np.save(tmp_path / f"{name}.npy", values)
    rare = Cadence(tokens=10_000, seconds=1e9, least_tokens=2)
    async with opened(home, probe=tmp_path, cadence=rare, probe_threshold=threshold) as made:
        session = made.session([RUDE])
        told = [await session.extend(word, deadline=soon()) for word in ("please ", "keep ", "your ", "voice ", "low ", "in the room ")]
        assert any(scores is not None for scores in told) is rings
        assert session.warning == pytest.approx(1 / (1 + math.exp(-3)), abs=0.2)
        await session.aclose()


async def test_an_edited_policy_shares_its_head_and_the_old_one_still_answers(home: Path, model: LoadedModel) -> None:
    body = (shipped_folder() / "toxicity.md").read_text(encoding="utf-8")
    old, new = policy("toxicity", body=body), policy("toxicity", body=body[:-40] + "and nothing else.\n")
    async with opened(home) as made:
        used = [await pages_with(made, 3)]  # two policies and the engine's own known row
        for number, each in enumerate((old, new), 4):
            await made.prepare([each])
            used.append(await pages_with(made, number))
        answers = await made.classify([ClassifyRequest(old, TEXTS[1]), ClassifyRequest(new, TEXTS[1])], deadline=soon())
    values = [answer.value for answer in answers if isinstance(answer, Score)]
    assert values == pytest.approx([expected(model, each, TEXTS[1]) for each in (old, new)], abs=1e-4)
    assert used[2] - used[1] < (used[1] - used[0]) / 2


async def test_exchanges_at_the_same_time_share_the_engines_passes(classifier: CopeClassifier) -> None:
    guard = Guard({"scripted": classifier})
    under = route(RUDE, NOISY, deadline_s=60.0)
    assert isinstance(classifier, SupportsProgress)
    before = classifier.passes()
    decisions = await asyncio.gather(*(guard.check(f"Question {number}?", route=under) for number in range(16)))
    assert not any(decision.outcome.unjudged for decision in decisions)
    while classifier.passes() == before:  # told with the engine's next sign of life
        await asyncio.sleep(0.01)
    assert classifier.passes() - before < 16  # apart each takes one at least
