"""A LoRA adapter as peft saves it, read without peft: which weights it changes, and by how much.

Only what can be merged to the letter is read: plain low-rank pairs on linear layers. Everything else is refused by name, never left out.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from guardrail.engine.cope.source import Source, read_json
from guardrail.errors import ModelFileError

_PREFIX = "base_model.model."
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
# Settings that do not change what a merge means, whatever their value. Any other must be switched off.
_HARMLESS = frozenset(
    {
        *("alpha_pattern", "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config", "exclude_modules"),
        *("inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout", "megatron_core"),
        *("peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules"),
        *("task_type", "use_rslora"),
    }
)
_OFF: tuple[Any, ...] = (None, False, "none", {}, [])
_OWN_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # these started from a base that they had changed


@dataclass(frozen=True, slots=True)
class Adapter:
    """`pairs`: name of a base weight -> (down [r, in], up [out, r], scale); fp32."""

    base: str | None
    pairs: Mapping[str, tuple[Tensor, Tensor, float]]

    def delta(self, name: str) -> Tensor | None:
        """What is added to a base weight, [out, in] fp32; None where it stays as it is."""
        if name not in self.pairs:
            return None
        down, up, scale = self.pairs[name]
        return (up @ down) * scale


def load_adapter(source: Source, settings: Mapping[str, Any] | None = None) -> Adapter:
    """Read an adapter's folder. Raises ModelFileError for anything but plain LoRA in safetensors.

    `settings` stand in for its `adapter_config.json`, in the same words.
    """
    if settings is None:
        settings = read_json(source.folder / "adapter_config.json")
    if settings.get("peft_type") != "LORA":
        raise ModelFileError(f"{source.name} is an adapter of type {settings.get('peft_type')!r}; only LORA can be merged here")
    odd = sorted(name for name, value in settings.items() if name not in _HARMLESS and value not in _OFF)
    if str(settings.get("init_lora_weights")).startswith(_OWN_BASE):
        odd.append(f"init_lora_weights={settings['init_lora_weights']}")
    if odd:
        raise ModelFileError(f"{source.name} uses {', '.join(odd)}, which cannot be merged to the letter here; merge it with peft")
    try:
        with safe_open(source.adapter(), framework="pt") as file:
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except SafetensorError as error:
        raise ModelFileError(f"{source.adapter()} is damaged ({error}); download it again") from error
    pairs: dict[str, tuple[Tensor, Tensor, float]] = {}
    for name in [name for name in tensors if name.startswith(_PREFIX) and name.endswith(_DOWN)]:
        module = name.removeprefix(_PREFIX).removesuffix(_DOWN)
        up = tensors.pop(_PREFIX + module + _UP, None)
        if up is not None:
            down = tensors.pop(name)
            pairs[f"{module}.weight"] = (down, up, _scale(settings, module, len(down)))
    if tensors:
        raise ModelFileError(f"{source.name} holds {min(tensors)}, which is no half of a plain LoRA pair; merge it with peft instead")
    if not pairs:
        raise ModelFileError(f"{source.name} changes nothing: it holds no LoRA pairs")
    base = settings.get("base_model_name_or_path")
    return Adapter(str(base) if base else None, MappingProxyType(pairs))


def merged(weight: Tensor, delta: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum in fp32, rounded once. Raises ModelFileError where the shapes differ."""
    if weight.shape != delta.shape:
        raise ModelFileError(f"an adapter for weights of shape {tuple(delta.shape)} does not fit a base of {tuple(weight.shape)}")
    return (weight.float() + delta).to(dtype)


def _scale(settings: Mapping[str, Any], module: str, rank: int) -> float:
    alpha = _pattern(settings.get("alpha_pattern") or {}, module, settings["lora_alpha"])
    stated = _pattern(settings.get("rank_pattern") or {}, module, settings["r"])
    if stated != rank:
        raise ModelFileError(f"the adapter states rank {stated} for {module} and holds {rank}; it is damaged")
    return float(alpha) / (rank**0.5 if settings.get("use_rslora") else rank)


def _pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """peft's rule: the first pattern that matches the end of the module's name."""
    return next((value for pattern, value in patterns.items() if re.fullmatch(rf"(.*\.)?({pattern})", module)), default)
