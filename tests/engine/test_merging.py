"""A base and an adapter become one folder: to the bit what peft makes of them, whole or not at all, and nothing guessed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_checkpoints import PROJECTIONS, plain_checkpoint, quiet, tiny_adapter, tiny_base
from transformers import AutoModelForCausalLM, AutoTokenizer

from guardrail.engine.cope import manifest as manifests
from guardrail.engine.cope.lora import load_adapter
from guardrail.engine.cope.memory import gib
from guardrail.engine.cope.merge import MergePlan, Step, merge
from guardrail.engine.cope.source import locate
from guardrail.engine.cope.verification import Checked, Subject, verify
from guardrail.errors import DoesNotFitError, ModelFileError


@pytest.fixture
def plan(tmp_path: Path) -> MergePlan:
    """Base and adapter, to be merged into three files."""
    return MergePlan(locate(tiny_base(tmp_path)), locate(tiny_adapter(tmp_path)), tmp_path / "out", shard_bytes=100_000)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    return found


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def adapter_of(folder: Path, base: Path, **settings: Any) -> Path:
    """An adapter with other settings, its numbers random."""
    torch.manual_seed(3)
    with quiet():
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager"),
            LoraConfig(**({"r": 4, "lora_alpha": 8, "target_modules": PROJECTIONS, "init_lora_weights": False} | settings)),
        )
    model.save_pretrained(folder)
    return folder


def settings_of(folder: Path, **changed: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_the_merge_is_what_peft_makes_to_the_bit(plan: MergePlan, tmp_path: Path) -> None:
    merge(plan)
    assert len(list(plan.output.glob("*.safetensors"))) == 3
    assert same(weights(plan.output), weights(plain_checkpoint(tmp_path)))


@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 3}},
        {"target_modules": ["v_proj"], "layers_to_transform": [1]},
    ],
)
def test_scales_and_ranks_of_their_own_are_peft_s(plan: MergePlan, tmp_path: Path, settings: dict[str, Any]) -> None:
    adapter = adapter_of(tmp_path / "other", plan.base.folder, **settings)
    base = AutoModelForCausalLM.from_pretrained(plan.base.folder, dtype=torch.float32, attn_implementation="eager")
    with quiet():
        expected = PeftModel.from_pretrained(base, adapter).merge_and_unload().to(torch.bfloat16).state_dict()
    merge(replace(plan, adapter=locate(adapter)))
    assert same(weights(plan.output), {name: expected[name] for name in weights(plan.output)})


def test_the_manifest_vouches_for_every_file(plan: MergePlan) -> None:
    made = merge(plan)
    assert made == manifests.read(plan.output)
    assert set(made.files) == {path.name for path in plan.output.iterdir()} - {manifests.NAME}
    assert (made.dtype, made.template, made.base.name) == ("bfloat16", "A", str(plan.base.folder))
    manifests.check(plan.output, made)


def test_the_same_merge_has_the_same_digest(plan: MergePlan, tmp_path: Path) -> None:
    first, second = merge(plan), merge(replace(plan, output=tmp_path / "again"))
    other = merge(replace(plan, output=tmp_path / "fp32", dtype="float32"))
    assert first.digest == second.digest != other.digest


@pytest.mark.parametrize(("dtype", "stored"), [("float32", torch.float32), ("float16", torch.float16), ("keep", torch.bfloat16)])
def test_the_type_is_the_one_asked_for(plan: MergePlan, dtype: str, stored: torch.dtype) -> None:
    made = merge(replace(plan, dtype=dtype))
    assert {weight.dtype for weight in weights(plan.output).values()} == {stored}
    assert made.dtype == str(stored).removeprefix("torch.")
    assert json.loads((plan.output / "config.json").read_text())["dtype"] == made.dtype


def test_what_rounding_loses_is_told(plan: MergePlan, tmp_path: Path) -> None:
    """In fp32 nothing; in bf16 the more, the smaller the change is against the weight."""
    whole = {delta.kind: delta for delta in merge(plan).deltas}
    assert set(whole) == set(PROJECTIONS)
    assert 0.1 < whole["q_proj"].relative < 0.2
    assert 0.005 < whole["q_proj"].lost_share < 0.05
    exact = merge(replace(plan, output=tmp_path / "fp32", dtype="float32"))
    assert max(delta.lost_share for delta in exact.deltas) < 1e-5
    settings_of(plan.adapter.folder, lora_alpha=0.5)
    small = {delta.kind: delta for delta in merge(replace(plan, output=tmp_path / "small")).deltas}
    assert small["q_proj"].relative == pytest.approx(whole["q_proj"].relative / 16, rel=1e-4)
    assert small["q_proj"].lost_share > 5 * whole["q_proj"].lost_share


class Interrupted(Exception):
    """The power goes."""


def interrupted_after(share: float) -> Any:
    def report(step: Step) -> None:
        if step.done > share * step.total:
            raise Interrupted

    return report


def test_an_interrupted_merge_goes_on_where_it_stopped(plan: MergePlan) -> None:
    with pytest.raises(Interrupted):
        merge(plan, interrupted_after(0.8))
    unfinished = plan.output.with_name("out.unfinished")
    assert not plan.output.exists()
    first = unfinished / "model-00001-of-00003.safetensors"
    written = first.stat().st_mtime_ns
    made = merge(plan)
    assert (plan.output / first.name).stat().st_mtime_ns == written
    assert not unfinished.exists()
    assert made.deltas == merge(replace(plan, output=plan.output.with_name("at-once"))).deltas


@pytest.mark.parametrize("what", ["a damaged file", "another adapter"])
def test_what_an_interrupted_merge_left_is_not_trusted(plan: MergePlan, tmp_path: Path, what: str) -> None:
    with pytest.raises(Interrupted):
        merge(plan, interrupted_after(0.8))
    if what == "another adapter":
        plan = replace(plan, adapter=locate(adapter_of(tmp_path / "other", plan.base.folder)))
    else:
        first = plan.output.with_name("out.unfinished") / "model-00001-of-00003.safetensors"
        first.write_bytes(first.read_bytes()[:-1] + b"!")
    merge(plan)
    merge(clean := replace(plan, output=tmp_path / "clean"))
    assert same(weights(plan.output), weights(clean.output))


def test_progress_reaches_its_end(plan: MergePlan) -> None:
    steps: list[Step] = []
    merge(plan, steps.append)
    assert steps[-1].done == steps[-1].total
    assert [step.done for step in steps] == sorted(step.done for step in steps)


def test_an_output_that_exists_is_left_alone(plan: MergePlan) -> None:
    plan.output.mkdir()
    with pytest.raises(ModelFileError, match="exists already; give another --output"):
        merge(plan)


def test_the_tokenizer_is_the_base_s_and_older_readers_can_read_it(plan: MergePlan) -> None:
    assert isinstance(json.loads((plan.base.folder / "tokenizer_config.json").read_text())["extra_special_tokens"], list)
    merge(plan)
    extra = json.loads((plan.output / "tokenizer_config.json").read_text())["extra_special_tokens"]
    assert sorted(extra.values()) == ["<end_of_turn>", "<start_of_turn>"]
    ours, theirs = (AutoTokenizer.from_pretrained(folder) for folder in (plan.output, plan.base.folder))
    text = "<start_of_turn>user\nThe garden is open.<end_of_turn>\n"
    assert ours(text)["input_ids"] == theirs(text)["input_ids"]


def test_a_tokenizer_that_cannot_serve_stops_the_merge(plan: MergePlan) -> None:
    (plan.base.folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelFileError, match="no chat template"):
        merge(replace(plan, template="B"))
    assert not plan.output.exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"peft_type": "LOHA"}, "type 'LOHA'; only LORA"),
        ({"use_dora": True}, "uses use_dora, which"),
        ({"a_setting_of_the_future": 3}, "uses a_setting_of_the_future"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights=pissa"),
        ({"bias": "all"}, "uses bias"),
        ({"r": 8}, "states rank 8 for .* and holds 4"),
    ],
)
def test_an_adapter_that_cannot_be_merged_to_the_letter_is_refused(plan: MergePlan, changed: dict[str, Any], said: str) -> None:
    settings_of(plan.adapter.folder, **changed)
    with pytest.raises(ModelFileError, match=said):
        merge(plan)


def test_no_part_of_an_adapter_is_left_out(plan: MergePlan) -> None:
    file = plan.adapter.folder / "adapter_model.safetensors"
    save_file(load_file(file) | {"base_model.model.lm_head.weight": torch.zeros(2, 2)}, file)
    with pytest.raises(ModelFileError, match=r"lm_head\.weight, which is no half of a plain LoRA pair"):
        load_adapter(plan.adapter)


def test_an_adapter_for_another_base_is_refused(plan: MergePlan) -> None:
    other = json.loads((plan.base.folder / "config.json").read_text())
    (plan.base.folder / "config.json").write_text(json.dumps(other | {"num_hidden_layers": 1}))
    file = plan.base.folder / "model.safetensors"
    save_file({name: value for name, value in load_file(file).items() if "layers.1." not in name}, file, {"format": "pt"})
    with pytest.raises(ModelFileError, match=r"changes model\.layers\.1\..* does not have \(it was made for .*base\); give its own base"):
        merge(plan)


def test_a_full_disk_is_told_before_anything_is_written(plan: MergePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 10, 10))
    with pytest.raises(DoesNotFitError, match=r"needs 0\.2 MiB of disk and 0\.0 MiB is free"):
        merge(plan)
    assert not plan.output.with_name("out.unfinished").exists()


def test_sizes_are_for_people() -> None:
    assert [gib(size) for size in (1 << 20, 200 << 20, 17 << 30)] == ["1.0 MiB", "0.2 GiB", "17.0 GiB"]


def outcomes(found: list[Checked]) -> dict[str, bool]:
    return {checked.name: checked.passed for checked in found}


def test_a_fresh_merge_verifies(plan: MergePlan) -> None:
    merge(plan)
    found = list(verify(Subject(plan.output)))
    assert outcomes(found) == dict.fromkeys(["files", "template", "tokenizer", "weights", "scores"], True)
    assert "24 weights are base + adapter, 24 of them to the bit" in found[3].detail
    assert "the adapter itself moves them by up to 0.3" in found[4].detail


def test_a_merge_in_fp32_is_peft_s_to_a_few_millionths(plan: MergePlan) -> None:
    merge(replace(plan, dtype="float32"))
    assert outcomes(list(verify(Subject(plan.output))))["scores"]


@pytest.mark.parametrize(("alpha", "scores"), [(8, False), (0.001, True)])
def test_weights_that_are_the_base_s_alone_do_not_verify(plan: MergePlan, alpha: float, scores: bool) -> None:
    """Files that match their manifest and are the wrong ones: the base passed off as the merge, of an adapter of any strength."""
    settings_of(plan.adapter.folder, lora_alpha=alpha)
    made = merge(replace(plan, shard_bytes=1 << 30))
    shutil.copy(plan.base.folder / "model.safetensors", plan.output / "model.safetensors")
    record = manifests.record(plan.output / "model.safetensors")
    manifests.write(plan.output, replace(made, files={**made.files, "model.safetensors": record}))
    found = outcomes(list(verify(Subject(plan.output))))
    assert found == {"files": True, "template": True, "tokenizer": True, "weights": False, "scores": scores}


def test_another_base_is_not_what_was_merged(plan: MergePlan, tmp_path: Path) -> None:
    merge(plan)
    with pytest.raises(ModelFileError, match="is not what was merged"):
        list(verify(Subject(plan.output, base=str(plain_checkpoint(tmp_path)))))


def test_a_quick_check_needs_no_base(plan: MergePlan) -> None:
    merge(plan)
    shutil.rmtree(plan.base.folder)
    assert outcomes(list(verify(Subject(plan.output), quick=True))) == {"files": True, "template": True, "tokenizer": True}
    with pytest.raises(ModelFileError, match="there is no such folder"):
        list(verify(Subject(plan.output)))


def test_an_altered_file_is_found(plan: MergePlan) -> None:
    merge(plan)
    (plan.output / "config.json").write_text((plan.output / "config.json").read_text() + " ")
    assert not outcomes(list(verify(Subject(plan.output), quick=True)))["files"]
