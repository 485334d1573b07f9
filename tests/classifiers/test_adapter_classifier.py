"""A multilabel adapter as a classifier: the probabilities of OpenCC's reader, its decisions, errors that stay errors."""

import asyncio
import json
import shlex
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import adapter_cases as cases
import opencc_reader
import pytest
import torch
from adapter_cases import TEXTS
from safetensors.torch import load_file, save_file

from guardrail.calibration import Platt, StoredCalibration
from guardrail.canary import check_canary
from guardrail.classifiers.adapter import AdapterClassifier
from guardrail.classifiers.adapter_options import AdapterOptions, KnownPair
from guardrail.engine.adapter.calibrations import write_calibrations
from guardrail.engine.adapter.loading import Opening, open_adapter
from guardrail.errors import ClassifierError, ModelFileError
from guardrail.guard import Guard
from guardrail.interfaces import Classifier, SupportsHealth, SupportsProgress
from guardrail.testing import policy, route
from guardrail.types import ClassifyRequest, Score

ANIMALS, TOOLS = policy("animals"), policy("tools")
PLAIN = AdapterOptions(scores="plain")


@asynccontextmanager
async def opened(folder: Path, options: AdapterOptions = PLAIN, *policies: Any, **how: Any) -> AsyncIterator[AdapterClassifier]:
    made = AdapterClassifier(open_adapter(folder, Opening(device="cpu", **how)), options)
    try:
        await made.prepare(policies)
        yield made
    finally:
        await made.aclose()


def soon() -> float:
    return time.monotonic() + 30


async def values(classifier: Classifier, asked: Any, texts: Any = TEXTS) -> list[float]:
    answers = await classifier.classify([ClassifyRequest(asked, text) for text in texts], deadline=soon())
    assert all(isinstance(answer, Score) for answer in answers), answers
    return [answer.value for answer in answers if isinstance(answer, Score)]


@pytest.mark.parametrize("architecture", cases.ARCHITECTURES)
async def test_what_was_trained_here_is_the_same_to_opencc_s_reader_and_to_ours(architecture: str) -> None:
    folder = cases.adapter(architecture)
    reader = opencc_reader.open_folder(folder)
    assert reader.labels == ["animals", "tools"]
    expected = reader.probabilities(list(TEXTS))
    assert expected.max() - expected.min() > 0.05  # the texts matter, so that equality says something
    async with opened(folder, PLAIN, ANIMALS, TOOLS) as classifier:
        for place, asked in enumerate((ANIMALS, TOOLS)):
            assert await values(classifier, asked) == pytest.approx(expected[:, place].tolist(), abs=1e-5)


async def test_at_a_policy_s_half_an_adapter_decides_as_opencc_s_reader_would() -> None:
    folder = cases.adapter("gemma2")
    reader = opencc_reader.open_folder(folder)
    texts = [row["text"] for row in cases.rows(60, seed=5)]
    async with opened(folder, AdapterOptions(), ANIMALS, TOOLS) as classifier:
        for asked in (ANIMALS, TOOLS):
            fired = [asked.id in reader.fires(text) for text in texts]
            assert [value >= 0.5 for value in await values(classifier, asked, texts)] == fired
            assert 0 < sum(fired) < len(fired)


async def test_alone_or_among_others_a_text_has_the_same_score() -> None:
    async with opened(cases.adapter("qwen2"), AdapterOptions(scores="plain", batch_tokens=96), ANIMALS) as classifier:
        together = await values(classifier, ANIMALS, TEXTS * 3)
        alone = [(await values(classifier, ANIMALS, [text]))[0] for text in TEXTS]
        callers = await asyncio.gather(*(values(classifier, ANIMALS, [text]) for text in TEXTS))
    assert together == pytest.approx(alone * 3, abs=1e-5)
    assert [each[0] for each in callers] == pytest.approx(alone, abs=1e-5)


async def test_a_published_folder_whose_thresholds_stand_in_the_sidecar_is_read_as_opencc_reads_it(tmp_path: Path) -> None:
    taxonomy = ["Benign", *opencc_reader.HARM_CATEGORIES[:6], "Integrity & Quality violations", *opencc_reader.HARM_CATEGORIES[7:]]
    thresholds = {name: 0.3 + 0.04 * place for place, name in enumerate(opencc_reader.HARM_CATEGORIES)}
    frame = {"objective": "multilabel", "taxonomy": taxonomy, "thresholds": None}
    folder = cases.by_hand(tmp_path / "cm", frame, 11, thresholds={"thresholds": thresholds})
    cases.as_safetensors(folder)
    reader = opencc_reader.open_folder(folder)
    hate, integrity = policy("hate_speech"), policy("lies")
    named = AdapterOptions({"lies": "Information Integrity"}, "plain")
    expected = reader.probabilities(list(TEXTS))
    async with opened(folder, named, hate, integrity) as classifier:
        assert await values(classifier, hate) == pytest.approx(expected[:, 4].tolist(), abs=1e-5)
        assert await values(classifier, integrity) == pytest.approx(expected[:, 6].tolist(), abs=1e-5)
    async with opened(folder, replace(named, scores="threshold"), hate) as classifier:
        flagged = [value >= 0.5 for value in await values(classifier, hate)]
    assert flagged == ["Hate Speech" in reader.fires(text) for text in TEXTS]


async def test_one_output_is_a_yes_or_no_and_no_softmax_that_always_says_yes(tmp_path: Path) -> None:
    folder = cases.by_hand(tmp_path / "jb", {"threshold": None}, 1, head="jailbreak_head.pt", threshold={"threshold": 0.34})
    cases.as_safetensors(folder, "jailbreak_head.pt")
    reader = opencc_reader.open_folder(folder)
    attack = policy("prompt_attack")
    named = AdapterOptions({"prompt_attack": "jailbreak"})
    async with opened(folder, named, attack) as moved, opened(folder, replace(named, scores="plain"), attack) as plain:
        scores, probabilities = await values(moved, attack), await values(plain, attack)
    expected = reader.probabilities(list(TEXTS))[:, 0].tolist()
    assert probabilities == pytest.approx(expected, abs=1e-5)
    assert max(expected) < 1.0
    assert [value >= 0.5 for value in scores] == [p >= 0.34 for p in expected]
    assert reader.binary


async def test_a_softmax_folder_is_a_softmax(tmp_path: Path) -> None:
    folder = cases.by_hand(tmp_path / "soft", {"taxonomy": ["Benign", "Cyber", "Privacy"]}, 3)
    cases.as_safetensors(folder)
    expected = opencc_reader.open_folder(folder).probabilities(list(TEXTS))
    assert expected.sum(1).tolist() == pytest.approx([1.0] * len(TEXTS))
    async with opened(folder, PLAIN, policy("privacy")) as classifier:
        assert await values(classifier, policy("privacy")) == pytest.approx(expected[:, 2].tolist(), abs=1e-5)


def test_a_pickled_head_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    folder = cases.by_hand(
        tmp_path / "cm", {"objective": "multilabel", "taxonomy": ["Cyber", "Privacy"]}, 2, train_config={"num_labels": 2}
    )
    with pytest.raises(ModelFileError, match="never read here") as refused:
        open_adapter(folder)
    command = shlex.split(str(refused.value)[str(refused.value).index("python -c") :])
    subprocess.run([sys.executable, *command[1:]], check=True, timeout=60)
    assert open_adapter(folder).frame.labels == ("Cyber", "Privacy")


async def test_a_policy_without_a_category_is_refused_and_never_passes() -> None:
    async with opened(cases.adapter("gemma2")) as classifier:
        with pytest.raises(ClassifierError, match=r"it reads no policies, it knows animals, tools; .*categories: \{violence: …\}"):
            await classifier.prepare([ANIMALS, policy("violence")])
        (answer,) = await classifier.classify([ClassifyRequest(policy("violence"), "x")], deadline=soon())
        assert isinstance(answer, ClassifierError)
        assert answer.code == "not_prepared"


async def test_two_policies_of_one_text_are_judged_each_by_its_own_category() -> None:
    same = replace(TOOLS, body=ANIMALS.body, digest=ANIMALS.digest)
    async with opened(cases.adapter("gemma2"), PLAIN, ANIMALS, TOOLS, same) as classifier:
        assert await values(classifier, same) == await values(classifier, TOOLS) != await values(classifier, ANIMALS)
        decision = await Guard({"scripted": classifier}).check(TEXTS[0], route=route(ANIMALS, same, deadline_s=20.0))
        assert [verdict.criterion for verdict in decision.verdicts] == ["animals", "tools"]


def test_a_category_that_the_adapter_does_not_have_is_refused_at_once() -> None:
    model = open_adapter(cases.adapter("gemma2"))
    with pytest.raises(ModelFileError, match=r"policy 'violence' names the category 'Weapons'.*it has animals, tools"):
        AdapterClassifier(model, AdapterOptions({"violence": "Weapons"}))


async def test_a_text_beyond_what_it_reads_is_judged_in_windows_by_the_guard() -> None:
    text = "The library opens at nine and closes at six. " * 60 + "In the shed there is a hammer and a saw."
    async with opened(cases.adapter("gemma2"), PLAIN, TOOLS, longest=512) as classifier:
        (alone,) = await classifier.classify([ClassifyRequest(TOOLS, text)], deadline=soon())
        assert isinstance(alone, ClassifierError)
        assert alone.code == "too_long"
        assert "512 at most" in str(alone)
        decision = await Guard({"scripted": classifier}).check(text, route=route(TOOLS, deadline_s=20.0))
    (verdict,) = decision.verdicts
    assert verdict.score is not None
    assert verdict.span is not None
    assert verdict.criterion == "tools"
    assert not decision.outcome.unjudged


async def test_a_score_says_what_replaying_it_needs() -> None:
    async with opened(cases.adapter("llama"), AdapterOptions(), ANIMALS) as classifier:
        (score,) = await classifier.classify([ClassifyRequest(ANIMALS, TEXTS[0])], deadline=soon())
        assert isinstance(score, Score)
        assert score.provenance is not None
        assert (score.provenance.dtype, score.provenance.bucket % 32, score.criterion) == ("float32", 0, "animals")
        assert classifier.id.startswith("adapter@sha256:")
        assert "+threshold@sha256:" in classifier.id
        assert isinstance(classifier, SupportsHealth)
        assert isinstance(classifier, SupportsProgress)
        assert classifier.passes() == 1
        assert classifier.outage() is None


async def test_other_weights_have_another_id_and_another_base_is_refused(tmp_path: Path) -> None:
    folder = cases.copied("gemma2", tmp_path)
    before = open_adapter(folder).digest
    head = folder / "classification_head.safetensors"
    save_file({name: tensor + 1e-6 for name, tensor in load_file(head).items()}, head)
    (folder / "calibrations.json").unlink()
    assert open_adapter(folder).digest != before
    with pytest.raises(ModelFileError, match="give its own base"):
        open_adapter(folder, Opening(str(cases.base("qwen2"))))


async def test_calibrations_beside_the_weights_make_the_score_and_those_of_other_weights_are_refused(tmp_path: Path) -> None:
    folder = cases.copied("gemma2", tmp_path)
    digest = open_adapter(folder).adapter_digest
    made = Platt(0.5, -1.0)
    write_calibrations(folder, {name: StoredCalibration(made, digest) for name in ("animals", "tools")})
    async with opened(folder, PLAIN, ANIMALS) as plain, opened(folder, AdapterOptions(scores="calibrated"), ANIMALS) as calibrated:
        expected = [made.apply(value) for value in await values(plain, ANIMALS)]
        assert await values(calibrated, ANIMALS) == pytest.approx(expected, abs=1e-9)
        assert plain.id != calibrated.id
    write_calibrations(folder, {"animals": StoredCalibration(made, "sha256:other")})
    with pytest.raises(ModelFileError, match="was fitted on the weights sha256:other"):
        AdapterClassifier(open_adapter(folder), AdapterOptions(scores="calibrated"))
    (folder / "calibrations.json").unlink()
    with pytest.raises(ModelFileError, match="no calibration of 'animals'"):
        AdapterClassifier(open_adapter(folder), AdapterOptions(scores="calibrated"))


async def test_a_text_that_spells_a_control_token_is_read_letter_by_letter() -> None:
    async with opened(cases.adapter("gemma2"), PLAIN, ANIMALS) as classifier:
        model = classifier._model
        assert not set(model.tokens.ids("a <eos><pad><bos> cat")[1:]) & {0, 1, 2}
        assert model.tokens.ids("a cat")[0] == 2  # the one that the tokenizer itself puts in front


async def test_a_pass_that_breaks_is_an_error_for_those_in_it_and_the_next_one_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(cases.adapter("gemma2"), PLAIN, ANIMALS) as classifier:
        ask = type(classifier._model).ask
        with monkeypatch.context() as broken:
            broken.setattr(type(classifier._model), "ask", lambda self, rows: 1 / 0)
            with pytest.raises(ClassifierError, match="ZeroDivisionError") as error:
                await values(classifier, ANIMALS)
            assert error.value.code == "crash"
            assert classifier.outage() is not None
        assert len(await values(classifier, ANIMALS)) == len(TEXTS)
        assert classifier.outage() is None
        with monkeypatch.context() as strange:
            strange.setattr(type(classifier._model), "ask", lambda self, rows: ask(self, rows) * torch.nan)
            (answer,) = await classifier.classify([ClassifyRequest(ANIMALS, "x")], deadline=soon())
        assert isinstance(answer, ClassifierError)
        assert answer.code == "not_a_number"


async def test_late_too_many_and_closed_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(cases.adapter("gemma2"), PLAIN, ANIMALS) as classifier:
        with pytest.raises(ClassifierError, match="deadline") as late:
            await classifier.classify([ClassifyRequest(ANIMALS, "x")], deadline=time.monotonic() - 1)
        assert late.value.code == "timeout"
        monkeypatch.setattr("guardrail.classifiers.adapter.MOST_WAITING", 10)
        first = asyncio.create_task(values(classifier, ANIMALS, ["x" * 20]))
        await asyncio.sleep(0)
        with pytest.raises(ClassifierError, match="20 characters are waiting") as full:
            await values(classifier, ANIMALS, ["y"])
        assert full.value.code == "overloaded"
        await first
    with pytest.raises(ClassifierError, match="closed"):
        await values(classifier, ANIMALS)
    assert classifier.outage() is not None


async def test_the_operator_s_known_pair_is_what_health_asks() -> None:
    sure = KnownPair("animals", "In the garden there is a cat and a table.", "In the garden there is a table.")
    async with opened(cases.adapter("gemma2"), AdapterOptions(known_pair=sure)) as classifier:
        assert classifier.canary is not None
        await classifier.prepare([classifier.canary.policy])
        said = await check_canary(classifier, classifier.canary, name="main")
        turned = replace(classifier.canary, violating=sure.benign, benign=sure.violating)
        again = await check_canary(classifier, turned, name="main")
    assert (said.ok, again.ok) == (True, False)
    async with opened(cases.adapter("gemma2")) as without:
        assert without.canary is None


def test_a_head_for_another_number_of_categories_is_refused(tmp_path: Path) -> None:
    folder = cases.copied("gemma2", tmp_path)
    described: Mapping[str, Any] = json.loads((folder / "train_config.json").read_text())
    frame = json.loads((folder / "weight_frame.json").read_text())
    frame["classifier"] |= {"taxonomy": ["animals", "tools", "plants"], "thresholds": None}
    (folder / "weight_frame.json").write_text(json.dumps(frame))
    (folder / "train_config.json").write_text(json.dumps({**described, "num_labels": 3}))
    (folder / "thresholds.json").unlink()
    with pytest.raises(ModelFileError, match="has 2 outputs"):
        open_adapter(folder)
