"""What LoRA runs share: pairs that begin as no change, checkpoints that belong to one run, steps that go on to the bit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import tiny_gemma2, tiny_llama, tiny_qwen2
from torch import Tensor, nn

from guardrail.engine.cope.lora import load_adapter
from guardrail.engine.cope.source import locate
from guardrail.errors import GuardrailError
from guardrail.training.checkpoints import Keeper
from guardrail.training.lora import Lora, attach, learning, projections, save_adapter
from guardrail.training.steps import History, Pace, Progress, Upkeep, run

SEVEN = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("make", [tiny_gemma2, tiny_qwen2, tiny_llama])
def test_an_adapter_begins_as_no_change_and_changes_the_layers_projections_only(make: Any) -> None:
    model, ids = make(num_hidden_layers=1), torch.arange(20)[None]
    before = model(input_ids=ids).logits
    assert set(projections(model)) == SEVEN
    adapted = attach(model.to(torch.float32), Lora(rank=2), seed=1)
    assert torch.equal(adapted(input_ids=ids).logits, before)
    names = set(learning(adapted))
    assert len(names) == 2 * len(SEVEN)
    assert all(".lora_A." in name or ".lora_B." in name for name in names)


def test_the_beginning_is_the_seed_s_and_fp32_on_any_model() -> None:
    def beginning(seed: int) -> list[Tensor]:
        torch.rand(seed)  # whatever was drawn before
        model = attach(tiny_gemma2(num_hidden_layers=1, dtype=torch.bfloat16), Lora(targets=("q_proj",)), seed=seed)
        return [parameter.detach() for parameter in learning(model).values()]

    first, again, other = beginning(3), beginning(3), beginning(4)
    assert {parameter.dtype for parameter in first} == {torch.float32}
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], other[0])


def test_projections_that_are_not_there_are_named() -> None:
    with pytest.raises(GuardrailError, match="no projections named query; its layers have q_proj, k_proj"):
        attach(tiny_gemma2(num_hidden_layers=1), Lora(targets=("query",)), seed=1)


def test_a_saved_adapter_is_one_that_can_be_merged_to_the_letter(tmp_path: Path) -> None:
    model = attach(tiny_gemma2(num_hidden_layers=1), Lora(rank=2, alpha=6), seed=1)
    save_adapter(model, tmp_path / "adapter", "some/base")
    adapter = load_adapter(locate(tmp_path / "adapter"))
    assert adapter.base == "some/base"
    assert {name.split(".")[-2] for name in adapter.pairs} == SEVEN
    assert {scale for _, _, scale in adapter.pairs.values()} == {3.0}


@dataclass(frozen=True)
class Points:
    """A pass of a tiny regression."""

    x: Tensor
    y: Tensor
    weight: float
    tokens: int = 4


class Line:
    """Learns a line with noise drawn on the way, as dropout would be."""

    steps = 8

    def __init__(self) -> None:
        torch.manual_seed(7)
        self.model = nn.Linear(3, 1)

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        return dict(self.model.named_parameters())

    def passes(self, step: int) -> Sequence[Points]:
        dice = torch.Generator().manual_seed(step)
        x = torch.randn(8, 3, generator=dice)
        return [Points(part, part.sum(1, keepdim=True), float(len(part))) for part in (x[:3], x[3:])]

    def loss(self, each: Points) -> Tensor:
        return (self.model(nn.functional.dropout(each.x, 0.1)) - each.y).square().sum()

    def validate(self, *, whole: bool) -> Mapping[str, float]:
        torch.rand(1)  # measuring must not change what is learnt
        return {"whole": float(whole)}


class Interrupted(Exception):
    """The power goes."""


def learnt(folder: Path, *, until: int | None = None, pace: Pace = Pace(rate=0.05)) -> tuple[dict[str, Tensor], History]:  # noqa: B008
    line = Line()

    def report(progress: Progress) -> None:
        if progress.step == until:
            raise Interrupted

    history = run(line, pace, Upkeep(checkpoint_every=2, validate_every=3), Keeper(folder, {"pace": str(pace)}), report=report)
    return {name: parameter.detach().clone() for name, parameter in line.parameters.items()}, history


def test_an_interrupted_run_ends_as_an_uninterrupted_one_to_the_bit(tmp_path: Path) -> None:
    whole, told = learnt(tmp_path / "whole")
    for until in (3, 6):
        with pytest.raises(Interrupted):
            learnt(tmp_path / "parts", until=until)
    parts, history = learnt(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert history.losses == told.losses
    assert history.losses[-1] < 0.5 * history.losses[0]
    assert history.validations == told.validations
    assert [each["step"] for each in history.validations] == [0, 3, 6, 8]
    assert [each["whole"] for each in history.validations] == [1, 0, 0, 1]
    assert history.tokens == told.tokens == 8 * 8
    again, unchanged = learnt(tmp_path / "parts")
    assert unchanged.losses == told.losses
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    learnt(tmp_path)
    with pytest.raises(GuardrailError, match=r"another run: pace was .*rate=0\.05.*, is .*rate=0\.1"):
        learnt(tmp_path, pace=Pace(rate=0.1))


def test_a_damaged_checkpoint_is_no_beginning(tmp_path: Path) -> None:
    learnt(tmp_path)
    for file in tmp_path.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(GuardrailError, match="cannot be used as a checkpoint"):
        learnt(tmp_path)


def test_a_kill_while_a_checkpoint_is_written_leaves_the_last_one(tmp_path: Path) -> None:
    whole, _ = learnt(tmp_path / "whole")
    with pytest.raises(Interrupted):
        learnt(tmp_path / "parts", until=5)
    note = (tmp_path / "parts" / "checkpoint.json").read_text()
    (other,) = [file for file in (tmp_path / "parts").glob("*.safetensors") if f'"{file.name}"' not in note]
    other.write_bytes(b"half")
    parts, _ = learnt(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_checkpoints_hold_tensors_by_name(tmp_path: Path) -> None:
    learnt(tmp_path)
    names = set(load_file(next(tmp_path.glob("*.safetensors"))))
    assert {"model.weight", "optimizer.exp_avg.weight", "optimizer.exp_avg_sq.bias", "optimizer.step.weight"} <= names


def test_a_step_is_the_same_however_it_is_cut_into_passes(tmp_path: Path) -> None:
    class Whole(Line):
        def passes(self, step: int) -> Sequence[Points]:
            first, second = super().passes(step)
            return [Points(torch.cat([first.x, second.x]), torch.cat([first.y, second.y]), first.weight + second.weight)]

        def loss(self, each: Points) -> Tensor:
            return (self.model(each.x) - each.y).square().sum()

    class Parts(Whole):
        def passes(self, step: int) -> Sequence[Points]:
            return Line.passes(self, step)

    results = []
    for line in (Whole(), Parts()):
        run(line, Pace(rate=0.05), Upkeep(), Keeper(tmp_path / type(line).__name__, {}), report=lambda _: None)
        results.append(line.model.weight.detach())
    assert torch.allclose(*results, atol=1e-5)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    class Broken(Line):
        def loss(self, each: Points) -> Tensor:
            return super().loss(each) * float("nan")

    with pytest.raises(GuardrailError, match=r"step 1: the loss is nan .* lower the rate"):
        run(Broken(), Pace(), Upkeep(), Keeper(tmp_path, {}), report=lambda _: None)


@pytest.mark.parametrize(("schedule", "last"), [("linear", 0.1), ("cosine", 0.1), ("constant", 1.0)])
def test_the_rate_warms_up_and_falls(schedule: Any, last: float) -> None:
    pace = replace(Pace(rate=1.0, warm_up=0.1), schedule=schedule)
    rates = [pace.at(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == 1.0
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == pytest.approx(last, abs=0.02)
