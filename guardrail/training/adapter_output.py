"""What a trained multilabel adapter leaves behind: the files that OpenCC's reader and this package's read, and a record of the making."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from guardrail.calibration import Calibration, StoredCalibration
from guardrail.engine.adapter.calibrations import write_calibrations
from guardrail.engine.adapter.frame import BINARY, FRAME, HARMS, HEAD, MANY, ONE, SETTINGS, key
from guardrail.engine.cope import manifest as manifests
from guardrail.errors import GuardrailError
from guardrail.training.lora import save_adapter

PICKLED_HEAD = "classification_head.pt"
TRAINING = "training.json"
_REPLACED = (FRAME, MANY, ONE, PICKLED_HEAD)  # of an earlier output that had other categories or options


@dataclass(frozen=True, slots=True)
class Made:
    """What was trained: peft's `model`, the `head`, its `categories`, the base's name and digest, the `tokenizer`."""

    model: Any
    head: nn.Linear
    categories: tuple[str, ...]
    base: str
    base_digest: str
    tokenizer: Any


@dataclass(frozen=True, slots=True)
class Operating:
    """By category: thresholds on plain probabilities, calibrations where one could be fitted, and `notes` of how they were."""

    thresholds: Mapping[str, float]
    calibrations: Mapping[str, Calibration]
    notes: Mapping[str, str]


def check_names(categories: tuple[str, ...], *, opencc_head: bool) -> None:
    """Raises GuardrailError where OpenCC's reader would take the outputs for other categories than they are."""
    if opencc_head and len(categories) == len(HARMS) and [key(name) for name in categories] != [key(name) for name in HARMS]:
        raise GuardrailError(
            f"OpenCC's reader takes any eleven outputs for its own harm categories ({HARMS[0]} to {HARMS[-1]}); name these with --category "
            "in that order, train another number of categories, or leave --opencc-head out"
        )


def write_output(folder: Path, made: Made, operating: Operating, *, opencc_head: bool) -> str:
    """Write everything but the record; the digest of adapter and head, which calibrations are bound to.

    `opencc_head`: the head as a PyTorch file too, which OpenCC's reader loads and this package never does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in _REPLACED:
        (folder / name).unlink(missing_ok=True)
    save_adapter(made.model, folder, made.base)
    head = {name: tensor.detach().cpu().contiguous() for name, tensor in made.head.state_dict().items()}
    save_file(head, folder / HEAD, {"format": "pt"})
    if opencc_head:
        torch.save(head, folder / PICKLED_HEAD)
    made.tokenizer.save_pretrained(folder)
    files = (folder / "adapter_model.safetensors", folder / HEAD)
    digest = manifests.of_records({path.name: manifests.record(path).sha256 for path in files})
    stored = {name: StoredCalibration(each, digest, operating.notes) for name, each in operating.calibrations.items()}
    write_calibrations(folder, stored)
    _write(folder / SETTINGS, _settings(made))
    _write_frame(folder, made, operating, PICKLED_HEAD if opencc_head else HEAD)
    return digest


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """`training.json`: recipe, data, measures."""
    _write(folder / TRAINING, record)


def _write_frame(folder: Path, made: Made, operating: Operating, head: str) -> None:
    """The frame last: it makes the folder an adapter. Thresholds stand in it and in the sidecar, as OpenCC's reader knows both."""
    described: dict[str, Any] = {"base_model": made.base, "base_digest": made.base_digest, "taxonomy": list(made.categories)}
    described |= {"objective": "multilabel", "head_filename": head}
    thresholds = dict(operating.thresholds)
    if len(made.categories) == 1:  # for OpenCC's reader one output is always binary, and a sidecar of many would make it forget that
        threshold = {"threshold": thresholds[made.categories[0]]}
        _write(folder / ONE, threshold)
        _write(folder / FRAME, {f"{BINARY}_classifier": described | threshold})
    else:
        _write(folder / MANY, {"thresholds": thresholds})
        _write(folder / FRAME, {"classifier": described | {"thresholds": thresholds}})


def _settings(made: Made) -> dict[str, Any]:
    lora = made.model.peft_config["default"]
    return {
        "model_name": made.base,
        "objective": "multilabel",
        "num_labels": len(made.categories),
        "lora_r": lora.r,
        "lora_alpha": lora.lora_alpha,
        "lora_dropout": lora.lora_dropout,
        "lora_target_modules": sorted(lora.target_modules),
    }


def _write(path: Path, document: Mapping[str, Any]) -> None:
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    unfinished.replace(path)
