"""What an adapter's folder says about itself, in the files that OpenCC reads: `weight_frame.json`, its sidecars, `train_config.json`.

The rules are OpenCC's (its `hf_classifier_backend.py`): `classifier` before `jailbreak_classifier`; a sidecar speaks only where the frame
is silent; a lone threshold makes it binary; what nobody states has a default. Where its reader would go wrong silently, this one refuses.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from guardrail.engine.cope.source import read_json
from guardrail.errors import ModelFileError

FRAME, SETTINGS = "weight_frame.json", "train_config.json"
MANY, ONE = "thresholds.json", "threshold.json"
HEAD = "classification_head.safetensors"
BENIGN = "Benign"
BINARY = "jailbreak"
HARMS = (
    *("CBRN", "Cyber", "Harm to Minors", "Harmful Manipulation", "Hate Speech", "Illegal Activities", "Information Integrity"),
    *("Physical Harm", "Privacy", "Self-Harm", "Sexual Content"),
)
"""OpenCC's harm categories in the order of its outputs: what eleven outputs mean where no taxonomy says otherwise."""

UNCALIBRATED = 0.5  # the threshold of a category that nobody calibrated
_ALIASES = {"integrity_quality_violations": "information_integrity"}  # OpenCC's card and data name this one otherwise than its code

Objective = Literal["multilabel", "softmax"]


@dataclass(frozen=True, slots=True)
class Frame:
    """A folder's own description, checked.

    `labels` are the head's outputs in order, `thresholds` (on plain probabilities) by label, every label has one. `base_digest` is what
    the base must be, empty where the folder does not say. `head` is the file of the head, always safetensors. `lora` stands in for a
    missing `adapter_config.json`, in peft's words.
    """

    base_model: str
    base_digest: str
    objective: Objective
    labels: tuple[str, ...]
    thresholds: Mapping[str, float]
    head: Path
    lora: Mapping[str, Any]

    def label(self, name: str) -> str | None:
        """The label that a name means: case, spaces and punctuation do not count, and an alias of OpenCC's is known; else None."""
        return next((label for label in self.labels if key(label) == key(name)), None)


def key(name: str) -> str:
    """What two spellings of one category have in common."""
    plain = re.sub(r"[\W_]+", "_", name.casefold()).strip("_")
    return _ALIASES.get(plain, plain)


def read_frame(folder: Path) -> Frame:
    """Read a folder. Raises ModelFileError, one sentence with file and remedy, for one that does not say what its outputs mean."""
    document, settings = read_json(folder / FRAME), _optional(folder / SETTINGS)
    chosen = document.get("classifier") or document.get("jailbreak_classifier")
    if not isinstance(chosen, dict):
        raise ModelFileError(f"{folder / FRAME} describes neither a `classifier` nor a `jailbreak_classifier`")
    frame = _backfilled(dict(chosen), folder)
    binary = "threshold" in frame and "thresholds" not in frame
    objective: Objective | Any = frame.get("objective") or settings.get("objective") or "softmax"
    if objective not in ("multilabel", "softmax"):
        raise ModelFileError(f"{folder / FRAME}: objective is {objective!r}; known are multilabel and softmax")
    labels = _labels(frame, _outputs(frame, settings, binary=binary, multilabel=objective == "multilabel"), folder)
    base = frame.get("base_model") or settings.get("model_name")
    if not isinstance(base, str):
        raise ModelFileError(f"{folder / FRAME} names no base_model; write the model's folder or its id on the hub there")
    return Frame(
        base_model=base,
        base_digest=str(frame.get("base_digest") or ""),
        objective=objective,
        labels=labels,
        thresholds=_thresholds({labels[0]: frame["threshold"]} if binary else frame.get("thresholds"), labels, folder),
        head=_head(folder, str(frame.get("head_filename") or ("jailbreak_head.pt" if binary else "classification_head.pt"))),
        lora=MappingProxyType(_lora(settings)),
    )


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _backfilled(frame: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Sidecars speak where the frame is silent. The published moderation adapter has nulls in its frame."""
    if frame.get("thresholds") is None and isinstance(found := _optional(folder / MANY).get("thresholds"), dict):
        frame["thresholds"] = found
    if frame.get("threshold") is None and "thresholds" not in frame and (found := _optional(folder / ONE).get("threshold")) is not None:
        frame["threshold"] = found
    return frame


def _outputs(frame: Mapping[str, Any], settings: Mapping[str, Any], *, binary: bool, multilabel: bool) -> int:
    stated = settings.get("num_labels")
    if isinstance(stated, int) and stated > 0:
        return stated
    if binary:
        return 1
    return len(HARMS) if multilabel else len(frame.get("taxonomy") or ())


def _labels(frame: Mapping[str, Any], outputs: int, folder: Path) -> tuple[str, ...]:
    taxonomy = frame.get("taxonomy") or []
    if not isinstance(taxonomy, list) or not all(isinstance(name, str) for name in taxonomy):
        raise ModelFileError(f"{folder / FRAME}: taxonomy is no list of names")
    harms = [name for name in taxonomy if key(name) != key(BENIGN)]
    found = next((names for names in (taxonomy, harms) if len(names) == outputs), None)
    if found is None and outputs == 1:
        found = [BINARY]
    elif found is None and not harms and outputs == len(HARMS):
        found = list(HARMS)
    if not found:
        raise ModelFileError(f"{folder / FRAME}: the taxonomy names {len(taxonomy)} categories for {outputs} outputs; correct one of them")
    if len({key(name) for name in found}) < len(found):
        raise ModelFileError(f"{folder / FRAME}: two categories of the taxonomy have the same name")
    return tuple(found)


def _thresholds(found: object, labels: tuple[str, ...], folder: Path) -> Mapping[str, float]:
    stated: dict[str, float] = {}
    for name, value in (found if isinstance(found, dict) else {}).items():
        if value is None:
            continue
        if not isinstance(value, int | float) or isinstance(value, bool) or not (math.isfinite(value) and 0 <= value <= 1):
            raise ModelFileError(f"{folder}: the threshold of {name} is {value!r}, not a number from 0 to 1; calibrate it again")
        stated[key(str(name))] = float(value)
    without = [label for label in labels if key(label) not in stated and key(label) != key(BENIGN)]
    strange = sorted(set(stated) - {key(label) for label in labels} - {key(BENIGN)})
    if without and strange:  # the names of another model: its thresholds would be left out without a word
        raise ModelFileError(f"{folder}: there is a threshold for {strange[0]!r}, which is no category, and none for {without[0]!r}")
    return MappingProxyType({label: stated.get(key(label), UNCALIBRATED) for label in labels})


def _head(folder: Path, name: str) -> Path:
    """The head as safetensors: the file of that name, or its conversion beside it. A pickle is never read."""
    if Path(name).name != name:
        raise ModelFileError(f"{folder / FRAME}: head_filename {name!r} is no plain file name")
    wanted = folder / name
    found = wanted.with_suffix(".safetensors")
    if found.is_file():
        return found
    if wanted == found:
        raise ModelFileError(f"{folder} has no {name}: the download or the copy is not complete")
    remedy = f'convert it once, where you trust it: python -c "{conversion(wanted, found)}"'
    if wanted.is_file():
        raise ModelFileError(f"{wanted} is a pickle, which can run code when it is read and is never read here; {remedy}")
    raise ModelFileError(f"{folder} has no {found.name}, and a pickle is never downloaded: put the publisher's {name} there and {remedy}")


def conversion(source: Path, target: Path) -> str:
    """The Python line that makes safetensors of a pickled head without running what is in it (`weights_only`)."""
    return (
        "import torch, safetensors.torch as s; "
        f"h = torch.load('{source}', map_location='cpu', weights_only=True); "
        f"s.save_file({{k.split('.')[-1]: v.contiguous() for k, v in h.items()}}, '{target}')"
    )


def _lora(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What OpenCC's reader builds where nothing else is stated."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": settings.get("lora_r", 16),
        "lora_alpha": settings.get("lora_alpha", 32),
        "lora_dropout": settings.get("lora_dropout", 0.05),
        "target_modules": settings.get("lora_target_modules", ["q_proj", "v_proj"]),
        "bias": "none",
    }
