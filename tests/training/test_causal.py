"""A CoPE from examples, from end to end on a tiny Gemma-2: it learns, goes on after a stop, merges, verifies, is served, is calibrated."""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tiny_checkpoints import byte_level_tokenizer, quiet, tiny_adapter, tiny_base
from tiny_models import tiny_llama, tiny_qwen2
from transformers import AutoModelForCausalLM

from guardrail.assembly import open_classifier
from guardrail.calibration import read_beside
from guardrail.config.cope import CopeClassifier
from guardrail.engine.cope import manifest as manifests
from guardrail.engine.cope.checkpoint import load_tokens
from guardrail.errors import GuardrailError, ModelFileError
from guardrail.testing import policy
from guardrail.training.causal import Plan, Trained, train_causal
from guardrail.training.causal_data import Example
from guardrail.training.causal_learner import Recipe
from guardrail.training.causal_measures import measures
from guardrail.training.causal_packs import Layout
from guardrail.training.causal_result import Ending, Made, finish
from guardrail.training.lora import Lora
from guardrail.training.steps import Pace, Progress, Upkeep
from guardrail.types import ClassifyRequest, Score

GARDENS = ("The garden is full of tulips.", "Leaves cover the garden paths.", "She sat in the garden.", "A garden in spring.")
OTHERS = ("The train leaves at ten.", "Readers borrow books.", "Knead the dough.", "Keep your voice low.")
POLICIES = ("Content about a garden.", "Content about flowers and gardens.")
TOO_LONG = "word " * 700
STEPS = 20
RECIPE = Recipe(
    lora=Lora(rank=4, alpha=8),
    pace=Pace(rate=0.01),
    layout=Layout(tokens=2048, accumulate=1),
    steps=STEPS,
    outside=1.0,
    longest=600,
    held_out=0,
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and examples of which one is too long; the same texts, asked otherwise, to measure on."""
    folder = tmp_path_factory.mktemp("causal")
    tiny_base(folder)
    told = [(text, 1) for text in GARDENS] + [(text, 0) for text in OTHERS]
    rows = [{"policy": asked, "content": text, "label": label} for asked in POLICIES for text, label in told]
    lines = [*rows, {"policy": POLICIES[0], "content": TOO_LONG, "label": 1}]
    (folder / "learn.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "measure.jsonl").write_text("\n".join(json.dumps({**row, "content": f"{row['content']} Yes."}) for row in rows))
    return folder


def plan_of(home: Path, output: Path, **changed: Any) -> Plan:
    made = Plan(
        str(home / "base"),
        (home / "learn.jsonl",),
        output,
        RECIPE,
        validation=(home / "measure.jsonl",),
        device="cpu",
        upkeep=Upkeep(checkpoint_every=4),
    )
    return replace(made, **changed)


@pytest.fixture(scope="module")
def plan(home: Path) -> Plan:
    return plan_of(home, home / "out")


@pytest.fixture(scope="module")
def trained(plan: Plan) -> Trained:
    return train_causal(plan, report=lambda _: None)


@pytest.fixture(scope="module")
def adapted(plan: Plan, trained: Trained) -> Any:
    """Base and adapter as transformers and peft read them from disk."""
    base = AutoModelForCausalLM.from_pretrained(plan.base, dtype=torch.float32, attn_implementation="eager")
    with quiet():
        return PeftModel.from_pretrained(base, plan.output / "adapter").eval()


@pytest.fixture(scope="module")
def remembered(plan: Plan, trained: Trained, adapted: Any) -> Trained:
    """The run, judged by the texts that it learnt: a random model of two layers remembers some and understands nothing."""
    examples = trained.data.learnt[:16]
    return replace(trained, judged=examples, scores=tuple(scores_of(adapted, plan, examples)))


@pytest.fixture(scope="module")
def made(plan: Plan, remembered: Trained) -> Made:
    return finish(plan, remembered, Ending("float32", calibrate=True))


def scores_of(model: Any, plan: Plan, examples: Sequence[Example]) -> list[float]:
    """p("1") against p("0"), each prompt whole and alone through a transformers model."""
    tokens = load_tokens(plan.base)
    found = []
    for example in examples:
        ids = torch.from_numpy(tokens.whole(example.policy, example.content).astype("int64"))[None]
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False).logits[0, -1]
        found.append(float(torch.sigmoid(logits[tokens.one] - logits[tokens.zero])))
    return found


def test_the_loss_falls(trained: Trained, remembered: Trained) -> None:
    losses = trained.history.losses
    assert len(losses) == STEPS
    assert losses[-1] < 0.4 * losses[0]
    found = measures(remembered.judged, remembered.scores)
    assert found["auc"] > 0.95
    assert found["log_loss"] < 0.45


def test_what_is_held_out_is_measured_before_and_after(trained: Trained) -> None:
    before, after = trained.history.validations
    assert (before["step"], after["step"]) == (0, STEPS)
    told = measures(trained.judged, trained.scores)
    assert {name: after[name] for name in told} == pytest.approx(told)
    assert before["outside"] > 0.9  # a base model says anything: without a weight on that the engine would refuse its answers
    assert after["outside"] < 0.3


def test_what_is_too_long_is_counted(trained: Trained) -> None:
    assert trained.too_long == 1
    assert len(trained.data.learnt) == 17
    assert trained.saved > 3  # the policy and its instructions are run once for eight contents


def test_the_adapter_on_disk_gives_the_trainer_s_scores(plan: Plan, trained: Trained, adapted: Any) -> None:
    assert scores_of(adapted, plan, trained.judged) == pytest.approx(list(trained.scores), abs=1e-5)


def test_the_merged_model_verifies_against_base_and_adapter(made: Made) -> None:
    assert [check.name for check in made.checks if check.passed] == ["files", "template", "tokenizer", "weights", "scores"]


async def served(model: Path, examples: Sequence[Example], **settings: Any) -> tuple[list[float], str]:
    """Scores through the engine, from a section of a configuration on; and the classifier's id. An error is none."""
    section = CopeClassifier(kind="cope", model=str(model), device="cpu", kv_gib=0.05, host_gib=0, **settings)
    asked = [ClassifyRequest(policy(f"p{POLICIES.index(each.policy)}", body=each.policy), each.content) for each in examples]
    async with open_classifier(section) as classifier:
        await classifier.prepare([request.policy for request in asked])
        answers = await classifier.classify(asked, deadline=time.monotonic() + 60)
        return [answer.value for answer in answers if isinstance(answer, Score)], classifier.id


async def test_the_engine_serves_it_with_the_trainer_s_scores(remembered: Trained, made: Made, tmp_path: Path) -> None:
    assert made.model is not None
    plain = shutil.copytree(made.model, tmp_path / "plain", ignore=shutil.ignore_patterns("calibration.json"))
    values, _ = await served(plain, remembered.judged)
    assert values == pytest.approx(list(remembered.scores), abs=1e-4)
    assert max(values) - min(values) > 0.4


async def test_and_calibrated_where_that_was_asked_for(remembered: Trained, made: Made) -> None:
    assert made.model is not None
    calibration = read_beside(made.model, made.note["model"])
    assert calibration is not None
    assert made.note["calibration"]["method"] == calibration.method
    values, name = await served(made.model, remembered.judged)
    assert values == pytest.approx([calibration.apply(score) for score in remembered.scores], abs=2e-3)
    assert "+calibration@" in name


@pytest.mark.parametrize("make", [tiny_qwen2, tiny_llama])
async def test_other_architectures_are_trained_and_served_alike(home: Path, tmp_path: Path, make: Any) -> None:
    """No soft-cap, and a tokenizer that may join policy and content."""
    tokenizer = byte_level_tokenizer()
    make(vocab_size=len(tokenizer), num_hidden_layers=2).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    plan = plan_of(home, tmp_path / "out", base=str(tmp_path / "base"), recipe=replace(RECIPE, steps=2, longest=2000))
    trained = train_causal(plan, report=lambda _: None)
    made = finish(plan, trained, Ending("float32"))
    assert made.model is not None
    values, _ = await served(made.model, trained.judged, most_outside=1.0)
    assert values == pytest.approx(list(trained.scores), abs=1e-4)


def test_labels_that_contradict_the_scores_leave_it_uncalibrated(plan: Plan, remembered: Trained, made: Made, tmp_path: Path) -> None:
    wrong = replace(remembered, judged=tuple(replace(each, label=1 - each.label) for each in remembered.judged))
    for name in ("adapter", "model"):
        shutil.copytree(plan.output / name, tmp_path / name, ignore=shutil.ignore_patterns("calibration.json"))
    found = finish(replace(plan, output=tmp_path), wrong, Ending("float32", calibrate=True))
    assert "scores fall as labels rise" in found.note["calibration"]["none"]
    assert not (tmp_path / "model" / "calibration.json").exists()


def test_training_json_says_what_was_done(plan: Plan, trained: Trained, made: Made) -> None:
    note = json.loads((plan.output / "training.json").read_text())
    assert note == made.note
    merged = manifests.read(plan.output / "model")
    assert merged is not None
    assert merged.adapter is not None
    assert (note["base"]["digest"], note["adapter"], note["model"]) == (merged.base.digest, merged.adapter.digest, merged.digest)
    assert note["recipe"]["pace"]["rate"] == 0.01
    assert note["data"]["digest"] == trained.data.digest
    assert (note["data"]["learnt"], note["data"]["held_out"], note["data"]["too_long"]) == (17, 16, 1)
    assert note["metrics"] == trained.history.validations[-1]
    assert note["prompt_tokens_per_s"] > 3 * note["tokens_per_s"] > 0
    assert note["peak_memory_bytes"] > 1 << 26
    assert (note["device"], note["dtype"], note["steps"]) == ("cpu", "float32", STEPS)
    assert all(check["passed"] for check in note["checks"])


class Interrupted(Exception):
    """The power goes."""


def adapter_bytes(output: Path) -> tuple[bytes, bytes]:
    folder = output / "adapter"
    return (folder / "adapter_model.safetensors").read_bytes(), (folder / "adapter_config.json").read_bytes()


def test_an_interrupted_run_ends_as_an_uninterrupted_one_to_the_bit(home: Path) -> None:
    recipe = replace(RECIPE, steps=5, lora=Lora(rank=2, alpha=4, dropout=0.1, targets=("q_proj", "down_proj")))
    whole, parts = (plan_of(home, home / name, recipe=recipe, upkeep=Upkeep(2, 2)) for name in ("whole", "parts"))
    train_causal(whole, report=lambda _: None)

    def until(progress: Progress) -> None:
        if progress.step == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        train_causal(parts, report=until)
    assert not (parts.output / "adapter").exists()
    steps: list[int] = []
    resumed = train_causal(parts, report=lambda progress: steps.append(progress.step))
    assert steps == [3, 4, 5]
    assert adapter_bytes(parts.output) == adapter_bytes(whole.output)
    assert [each["step"] for each in resumed.history.validations] == [0, 2, 4, 5]
    suffixes = {path.suffix for path in parts.output.rglob("*") if path.is_file()}
    assert suffixes <= {".safetensors", ".json", ".md"}  # nothing that runs code when it is read


@pytest.mark.parametrize("what", ["recipe", "data", "base"])
def test_a_run_of_something_else_is_not_gone_on_with(home: Path, plan: Plan, trained: Trained, tmp_path: Path, what: str) -> None:
    if what == "recipe":
        changed, said = replace(plan, recipe=replace(RECIPE, pace=Pace(rate=0.02))), r"recipe\.pace\.rate was 0\.01, is 0\.02"
    elif what == "data":
        (tmp_path / "other.jsonl").write_text((home / "learn.jsonl").read_text().replace("Knead", "knead"))
        changed, said = replace(plan, data=(tmp_path / "other.jsonl",)), r"data\.digest was .*, is "
    else:
        shutil.copytree(plan.base, tmp_path / "base")
        config = tmp_path / "base" / "config.json"
        config.write_text(config.read_text() + " ")
        changed, said = replace(plan, base=str(tmp_path / "base")), "base was .*, is "
    with pytest.raises(GuardrailError, match=f"is of another run: {said}.*Give the same options and data, or another folder"):
        train_causal(changed, report=lambda _: None)


def test_finishing_again_keeps_the_model_and_never_writes_over_another(plan: Plan, trained: Trained, made: Made, tmp_path: Path) -> None:
    assert made.model is not None
    written = (made.model / "model.safetensors").stat().st_mtime_ns
    again = finish(plan, trained, Ending("float32"))
    assert (made.model / "model.safetensors").stat().st_mtime_ns == written
    assert again.note["model"] == made.note["model"]
    with pytest.raises(ModelFileError, match="is another model; move it away"):
        finish(plan, trained, Ending("bfloat16"))


def test_an_adapter_alone_may_be_all_that_is_wanted(plan: Plan, trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(plan.output / "adapter", tmp_path / "adapter")
    alone = finish(replace(plan, output=tmp_path), trained, Ending(None))
    assert (alone.model, alone.checks) == (None, ())
    assert not (tmp_path / "model").exists()
    assert json.loads((tmp_path / "training.json").read_text())["steps"] == STEPS


def test_a_merge_that_does_not_verify_is_an_error_that_is_written_down(plan: Plan, trained: Trained, made: Made, tmp_path: Path) -> None:
    assert made.model is not None
    for name in ("adapter", "model"):
        shutil.copytree(plan.output / name, tmp_path / name)
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(ModelFileError, match="does not verify: files: "):
        finish(replace(plan, output=tmp_path), trained, Ending("float32"))
    checks = {check["name"]: check["passed"] for check in json.loads((tmp_path / "training.json").read_text())["checks"]}
    assert checks["files"] is False


def test_examples_that_are_measured_on_are_not_learnt(home: Path, tmp_path: Path) -> None:
    overlap = plan_of(home, tmp_path, data=(home / "learn.jsonl", home / "measure.jsonl"), recipe=replace(RECIPE, steps=1))
    found = train_causal(overlap, report=lambda _: None)
    assert found.data.dropped == 16
    assert {row.content for row in found.data.learnt}.isdisjoint(row.content for row in found.data.kept)


def test_an_adapter_is_no_base(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="is an adapter; merge it into its base first"):
        train_causal(replace(plan_of(home, tmp_path), base=str(tiny_adapter(tmp_path))), report=lambda _: None)
