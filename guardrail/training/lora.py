"""What every LoRA run of this package shares: low-rank layers on a frozen model. No pickles.

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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from guardrail.errors import GuardrailError

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


@contextmanager
def _old_names() -> Iterator[None]:
    """peft asks transformers for names that it has renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield
