"""Training a multilabel adapter from rows to a folder, on tiny random models: it learns, goes on to the bit, writes what readers need."""

import json
from dataclasses import replace
from pathlib import Path

import adapter_cases as cases
import opencc_reader
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from guardrail.cli.train_adapter import adapter as command
from guardrail.engine.adapter.encoding import TextIds
from guardrail.engine.adapter.loading import open_adapter
from guardrail.engine.cope.checkpoint import read_model
from guardrail.engine.cope.merge import read_tokenizer
from guardrail.errors import GuardrailError
from guardrail.training.adapter_batches import Shape
from guardrail.training.adapter_model import AdapterRecipe, MultilabelLearner
from guardrail.training.adapter_output import check_names
from guardrail.training.adapter_rows import AdapterData
from guardrail.training.adapter_thresholds import Target
from guardrail.training.lora import attach, recompute
from guardrail.training.steps import Progress, Upkeep


class StopError(Exception):
    pass


def learner(found: AdapterData, recipe: AdapterRecipe, *, saving: bool = False) -> MultilabelLearner:
    folder = cases.base("gemma2")
    model = attach(read_model(folder, torch.float32, torch.device("cpu")), recipe.lora, seed=1)
    if saving:
        recompute(model)
    return MultilabelLearner(model, TextIds(read_tokenizer(folder)), found, recipe)


def gradient(made: MultilabelLearner, step: int = 0) -> dict[str, torch.Tensor]:
    """Of the mean loss of one step, dropout switched off by its recipe."""
    passes = made.passes(step)
    weight = sum(each.weight for each in passes)
    for each in passes:
        (made.loss(each) / weight).backward()
    return {name: each.grad.clone() for name, each in made.parameters.items() if each.grad is not None}


def calm(**changes: object) -> AdapterRecipe:
    """Without dropout, so that two ways to the same gradient can be compared."""
    plain = cases.recipe(**changes)
    return replace(plain, lora=replace(plain.lora, dropout=0.0))


def test_the_loss_falls_and_held_out_texts_are_told_apart(tmp_path: Path) -> None:
    losses: list[float] = []
    record = cases.trained(tmp_path, losses=losses, recipe=cases.recipe(epochs=5))
    assert len(losses) == record["steps"]
    assert sum(losses[-12:]) < 0.75 * sum(losses[:12])
    assert record["validations"][-1]["loss"] < 0.8 * record["validations"][0]["loss"]
    for found in record["categories"].values():
        assert found["auc"] > 0.8
        assert 0 < found["threshold"] < 1
        assert found["calibration"] is not None
    assert set(record["surface"]) == {"newline", "case", "quote", "space", "punctuation"}
    folder = tmp_path / "adapter"
    assert {
        "adapter_model.safetensors", "adapter_config.json", "classification_head.safetensors", "weight_frame.json", "thresholds.json",
        "train_config.json", "training.json", "calibrations.json", "tokenizer.json",
    } <= {path.name for path in folder.iterdir()}  # fmt: skip
    assert not list(folder.glob("*.pt"))
    assert json.loads((folder / "training.json").read_text()) == json.loads(json.dumps(record))
    assert open_adapter(folder).adapter_digest == record["weights"]


def test_an_interrupted_run_goes_on_to_the_bit_and_another_one_is_refused(tmp_path: Path) -> None:
    upkeep = Upkeep(checkpoint_every=5)
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    cases.trained(tmp_path / "whole", upkeep=upkeep)

    def stop(progress: Progress) -> None:
        if progress.step == 13:
            raise StopError

    with pytest.raises(StopError):
        cases.trained(tmp_path / "cut", upkeep=upkeep, report=stop)
    seen: list[float] = []
    cases.trained(tmp_path / "cut", upkeep=upkeep, losses=seen)
    assert 0 < len(seen) < 24
    for file in ("adapter_model.safetensors", "classification_head.safetensors"):
        whole, cut = (load_file(tmp_path / name / "adapter" / file) for name in ("whole", "cut"))
        assert all(torch.equal(whole[name], cut[name]) for name in whole)
    with pytest.raises(GuardrailError, match=r"recipe\.epochs was 2, is 3"):
        cases.trained(tmp_path / "cut", recipe=cases.recipe(epochs=3))
    again: list[float] = []
    record = cases.trained(tmp_path / "cut", target=Target(0.0), losses=again)
    assert (record["target"], again) == ("fpr=0", [])  # only the thresholds are chosen anew


def test_unknown_labels_teach_nothing(tmp_path: Path) -> None:
    found = cases.data(tmp_path)
    all_at_once = calm(shape=Shape(batch=len(found.learnt)), balance=0.0)
    made, again = learner(found, all_at_once), learner(found, all_at_once)
    known = torch.cat([each.weights for each in made.passes(0)])
    assert (known[:, 1] == 0).sum() == sum("tools" not in row.labels for row in found.learnt) > 0
    passes = again.passes(0)
    for each in passes:
        each.labels[each.weights == 0] = 1.0  # whatever stands where nothing is known
        (again.loss(each) / sum(one.weight for one in passes)).backward()
    assert again.head.bias.grad is not None
    assert torch.equal(again.head.bias.grad, gradient(made)["head.bias"])


def test_however_a_step_is_cut_and_kept_its_gradient_is_the_same(tmp_path: Path) -> None:
    found = cases.data(tmp_path)
    whole = gradient(learner(found, calm(shape=Shape(16, 8192))))
    cut, saving = learner(found, calm(shape=Shape(16, 64))), learner(found, calm(shape=Shape(16, 8192)), saving=True)
    assert len(cut.passes(0)) > 4
    for other in (gradient(cut), gradient(saving)):
        for name, expected in whole.items():
            assert torch.allclose(other[name], expected, atol=1e-5), name


def test_no_label_decides_which_text_gets_noise(tmp_path: Path) -> None:
    lines = cases.rows()
    turned = [{**row, "labels": {name: None if label is None else 1 - label for name, label in row["labels"].items()}} for row in lines]
    recipe = calm(noise=0.5, shape=Shape(16, 256))
    made, other = (learner(cases.data(tmp_path, each), recipe) for each in (lines, turned))
    for step in (0, made.steps - 1):
        for one, two in zip(made.passes(step), other.passes(step), strict=True):
            assert torch.equal(one.batch.ids, two.batch.ids)
            assert torch.equal(one.labels[one.weights > 0], 1 - two.labels[two.weights > 0])
    plain = learner(cases.data(tmp_path, lines), calm(noise=0.0, shape=Shape(16, 256)))
    assert [each.tokens for each in plain.passes(0)] != [each.tokens for each in made.passes(0)]


def test_rare_categories_and_heavy_ones_weigh_more(tmp_path: Path) -> None:
    found = cases.data(tmp_path)
    made = learner(found, calm(balance=1.0, weights={"tools": 3.0}, shape=Shape(batch=len(found.learnt))))
    passes = made.passes(0)
    labels, weights = (torch.cat([getattr(each, name) for each in passes]) for name in ("labels", "weights"))
    for place, weight in enumerate((1.0, 3.0)):
        column = weights[:, place]
        assert column[labels[:, place] == 1].sum().item() == pytest.approx(column[labels[:, place] == 0].sum().item(), rel=1e-4)
        assert column[labels[:, place] == 0].max().item() == weight


def test_one_category_is_binary_to_opencc_s_reader_and_keeps_its_name_here(tmp_path: Path) -> None:
    lines = [{"text": row["text"], "area": "animals", "label": row["labels"]["animals"], "meta": {}} for row in cases.rows()]
    cases.trained(tmp_path, "qwen2", data=cases.data(tmp_path, lines), opencc_head=True)
    folder = tmp_path / "adapter"
    reader, ours = opencc_reader.open_folder(folder), open_adapter(folder)
    assert (reader.binary, reader.labels, ours.frame.labels) == (True, ["jailbreak"], ("animals",))
    assert reader.thresholds == {"jailbreak": ours.frame.thresholds["animals"]}
    texts = [text for text in cases.TEXTS if text.strip()]
    mine = ours.ask([list(ours.tokens.ids(texts[0]))])
    assert mine.tolist()[0] == pytest.approx(reader.probabilities(texts)[0].tolist(), abs=1e-5)


def test_eleven_categories_that_opencc_s_reader_would_rename_are_refused_before_anything_is_trained() -> None:
    eleven = tuple(f"area {number}" for number in range(11))
    check_names(eleven, opencc_head=False)
    check_names(tuple(opencc_reader.HARM_CATEGORIES), opencc_head=True)
    with pytest.raises(GuardrailError, match="takes any eleven outputs for its own harm categories"):
        check_names(eleven, opencc_head=True)


def test_texts_that_are_too_long_are_left_out_and_counted(tmp_path: Path) -> None:
    long = [{"text": f"A cat, number {number}. " * 40, "labels": {"animals": 1}} for number in range(30)]
    record = cases.trained(tmp_path, data=cases.data(tmp_path, [*cases.rows(), *long]))
    assert record["texts"]["too_long"] == 30
    assert sum(record["texts"][name] for name in ("trained_on", "calibrating", "reported")) == len({row["text"] for row in cases.rows()})


def test_the_command_trains_tells_and_names_the_next_step(tmp_path: Path) -> None:
    cases.data(tmp_path)
    options = ["--base", str(cases.base("llama")), "--output", str(tmp_path / "out"), "--epochs", "1", "--device", "cpu"]
    told = CliRunner().invoke(command, ["--data", str(tmp_path / "rows.jsonl"), *options, "--category", "tools", "--thresholds", "fpr=0.1"])
    assert told.exit_code == 0, told.output
    assert "kind: adapter" in told.output
    assert open_adapter(tmp_path / "out").frame.labels == ("tools",)
    odd = CliRunner().invoke(command, ["--data", str(tmp_path / "rows.jsonl"), *options, "--weight", "plants=2"])
    assert odd.exit_code == 2
    assert "there are animals, tools" in odd.output
    asked = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    assert '{"text": "…", "labels": {"CATEGORY": 1 | 0 | null, …}, "unit": "…"}' in asked
