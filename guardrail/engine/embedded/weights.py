"""The embedded classifier's one file: half-precision tensors, the word table in int8, the tokenizer and the calibration, in safetensors."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from guardrail.calibration import Platt
from guardrail.engine.embedded.model import PolicyReader, ReaderConfig
from guardrail.engine.embedded.tokens import Tokens
from guardrail.errors import ModelFileError

FORMAT = "guardrail-embedded/2"
EARLIER = "guardrail-embedded/1"  # without token matching: training may go on from it, nothing is judged with it


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to score, with the sha256 of the file it came from."""

    model: PolicyReader
    tokens: Tokens
    calibration: Platt
    digest: str


def save(path: Path, model: PolicyReader, tokenizer_json: str, calibration: Platt, *, notes: dict[str, str] | None = None) -> str:
    """Write the file atomically and return its sha256. `notes` go into the metadata (seed, steps, data digest)."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name == "words.weight":
            scale = tensor.abs().amax(1).clamp_min(1e-8) / 127.0
            tensors["words.int8"] = (tensor / scale[:, None]).round().to(torch.int8)
            tensors["words.scale"] = scale.to(torch.float32)
        else:
            tensors[name] = (tensor if tensor.dtype == torch.bool else tensor.to(torch.float16)).contiguous()
    metadata = {
        "format": FORMAT,
        "config": json.dumps(asdict(model.config)),
        "calibration": json.dumps(asdict(calibration)),
        "tokenizer": tokenizer_json,
        **(notes or {}),
    }
    unfinished = path.with_suffix(".part")
    save_file(tensors, unfinished, metadata)
    unfinished.replace(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load(path: Path) -> Loaded:
    """Read a file that `save` wrote. Raises ModelFileError when it is missing, damaged or of another format."""
    tensors, metadata, digest = _read(path, (FORMAT,))
    model = PolicyReader(ReaderConfig(**json.loads(metadata["config"])))
    model.load_state_dict(tensors)
    return Loaded(model.eval(), Tokens.from_json(metadata["tokenizer"]), _calibration(metadata, path), digest)


def start_from(model: PolicyReader, path: Path) -> str:
    """Give a model the weights of a file, also of an earlier format, whose missing parts stay as they are; returns the file's sha256.

    Raises ModelFileError as `load` does.
    """
    tensors, _, digest = _read(path, (FORMAT, EARLIER))
    model.load_state_dict(tensors, strict=False)
    return digest


def _calibration(metadata: dict[str, str], path: Path) -> Platt:
    try:
        return Platt(**json.loads(metadata["calibration"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: its calibration cannot be used ({error}); reinstall the package or train one") from error


def _read(path: Path, formats: tuple[str, ...]) -> tuple[dict[str, Tensor], dict[str, str], str]:
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"{path}: cannot be read as an embedded model ({error}); reinstall the package or train one") from error
    if metadata.get("format") not in formats:
        raise ModelFileError(f"{path}: format is {metadata.get('format')!r}, this version reads {' and '.join(map(repr, formats))}")
    words = tensors.pop("words.int8").to(torch.float32) * tensors.pop("words.scale")[:, None]
    return {"words.weight": words, **{name: tensor.to(torch.float32) for name, tensor in tensors.items()}}, metadata, digest
