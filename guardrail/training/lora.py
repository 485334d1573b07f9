"""What every LoRA run of this package shares: low-rank layers on a frozen model, and checkpoints of what is learnt. No pickles.

Whoever trains one does, in this order:

    model = attach(base, Lora(rank=16), seed=1)       # peft's model: the base frozen, the pairs in fp32, the same for the same seed
    parameters = learning(model)                      # name -> what is trained; put a head of your own beside it
    keeper = Keeper(folder, {"recipe": …, "data": …}) # what a run must agree with, to go on from this folder
    first, notes = keeper.resume(parameters, optimizer)
    …
    keeper.save(step, parameters, optimizer, notes)   # every so many steps; notes is any JSON object (history, say)
    save_adapter(model, folder / "adapter", base_name)

`guardrail.training.steps` has the loop around it.
"""

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from guardrail.errors import GuardrailError

NOTE = "checkpoint.json"
FILES = ("checkpoint-0.safetensors", "checkpoint-1.safetensors")
_BLOCK = re.compile(r"\.\d+\.")  # inside a numbered layer, not in what stands before or behind them


@dataclass(frozen=True, slots=True)
class Lora:
    """The shape of an adapter. `targets`: last names of the projections it changes; empty: all linear ones of the model's layers.

    The change is up @ down * alpha / rank; `dropout` is on what goes into it, in training only. CoPE's own values are not published:
    these are ours.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: tuple[str, ...] = ()


def projections(model: nn.Module) -> tuple[str, ...]:
    """Last names of the linear modules in a model's layers, in order: what an adapter can change."""
    inside = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and _BLOCK.search(f".{name}.")]
    return tuple(dict.fromkeys(name.rpartition(".")[2] for name in inside))


def attach(model: Any, lora: Lora, *, seed: int, task: str | None = "CAUSAL_LM") -> Any:
    """peft's model around `model`, whose own weights stay as they are from now on; it begins as no change at all.

    Pairs are fp32 whatever the model is, drawn on the CPU from `seed`, so equal on every device. Raises GuardrailError for projections
    that the model does not have.
    """
    known = projections(model)
    if unknown := sorted(set(lora.targets) - set(known)):
        raise GuardrailError(f"the model has no projections named {', '.join(unknown)}; its layers have {', '.join(known) or 'none'}")
    if not known:
        raise GuardrailError(f"{type(model).__name__} has no linear projections in numbered layers, so there is nothing to adapt")
    settings = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.targets or known), task_type=task
    )
    with torch.random.fork_rng(devices=[]), _old_names():
        torch.manual_seed(seed)
        return get_peft_model(model, settings)


def learning(model: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained, by name, in the model's order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_adapter(model: Any, folder: Path, base: str) -> None:
    """Write peft's two files (`adapter_config.json`, `adapter_model.safetensors`); `base` is named in them. No network is asked."""
    config = model.peft_config["default"]
    before = config.base_model_name_or_path
    config.base_model_name_or_path = base
    try:
        with _old_names():
            model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    finally:
        config.base_model_name_or_path = before
    written = folder / "adapter_config.json"
    document = json.loads(written.read_text(encoding="utf-8"))
    document["target_modules"] = sorted(document["target_modules"])  # a set, which peft writes in another order each time
    written.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def recompute(model: Any) -> None:
    """Keep a layer's input only and compute its inside again on the way back: a third more work, a small part of the memory."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


class Keeper:
    """Checkpoints in a folder. `identity`: all that decides the result (recipe, digests of data and base), as JSON holds it."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self._folder = folder
        self._identity: dict[str, Any] = json.loads(json.dumps(identity))

    def save(self, step: int, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, notes: Mapping[str, Any]) -> None:
        """What was learnt and the optimizer's moments by parameter name, then the note that makes them count.

        Two files in turn: a kill while one is written leaves the other whole.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{name}": tensor.detach().contiguous() for name, tensor in parameters.items()}
        for name, tensor in parameters.items():
            for part, moment in optimizer.state.get(tensor, {}).items():
                tensors[f"optimizer.{part}.{name}"] = moment.detach().contiguous()
        last = (self._note() or {}).get("file")
        file = next(file for file in FILES if file != last)
        save_file({name: tensor.cpu() for name, tensor in tensors.items()}, self._folder / file)
        note = {"step": step, "file": file, "identity": self._identity, "notes": dict(notes)}
        unfinished = self._folder / f"{NOTE}.part"
        unfinished.write_text(json.dumps(note, indent=1, allow_nan=False), encoding="utf-8")
        unfinished.replace(self._folder / NOTE)

    @torch.no_grad()
    def resume(self, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> tuple[int, dict[str, Any]]:
        """Put back what the last checkpoint holds; the steps done, and its notes. (0, {}) where there is none.

        Raises GuardrailError for one of another run, saying in what it differs, and for a damaged one.
        """
        note = self._note()
        if note is None:
            return 0, {}
        self._same(note["identity"])
        place = self._folder / note["file"]
        try:
            stored = load_file(place)
            for name, parameter in parameters.items():
                parameter.copy_(stored.pop(f"model.{name}"))
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise GuardrailError(
                f"{place} cannot be used as a checkpoint ({error}); remove the folder {self._folder} to begin anew"
            ) from error
        for full, moment in stored.items():
            _, part, name = full.split(".", 2)
            parameter = parameters[name]
            # The count of steps stays where the optimizer keeps it, which is the CPU unless it is a capturable one.
            optimizer.state[parameter][part] = moment if part == "step" else moment.to(parameter.device)
        return int(note["step"]), dict(note["notes"])

    def _note(self) -> dict[str, Any] | None:
        place = self._folder / NOTE
        try:
            note: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise GuardrailError(f"{place} cannot be read ({error}); remove the folder {self._folder} to begin anew") from error
        if not {"step", "file", "identity", "notes"} <= set(note) or Path(note["file"]).name != note["file"]:
            raise GuardrailError(f"{place} is of another kind of run; use another folder")
        return note

    def _same(self, before: Mapping[str, Any]) -> None:
        if differing := list(_differences(before, self._identity)):
            raise GuardrailError(
                f"{self._folder / NOTE} is of another run: {'; '.join(differing[:3])}. Give the same options and data, or another folder"
            )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name in sorted({*before, *now}):
        first, second = before.get(name), now.get(name)
        if isinstance(first, dict) and isinstance(second, dict):
            yield from _differences(first, second, f"{path}{name}.")
        elif first != second:
            yield f"{path}{name} was {json.dumps(first)}, is {json.dumps(second)}"


@contextmanager
def _old_names() -> Iterator[None]:
    """peft asks transformers for names that it has renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield
