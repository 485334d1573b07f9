"""What a model is and what it needs, from its headers alone: nothing is loaded."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig

from guardrail.engine.cope import manifest as manifests
from guardrail.engine.cope.checkpoint import needed
from guardrail.engine.cope.kv import KVShape
from guardrail.engine.cope.manifest import Manifest
from guardrail.engine.cope.memory import available
from guardrail.engine.cope.quantise import PARTS
from guardrail.engine.cope.shards import Weight, weights_of
from guardrail.engine.cope.source import locate, reason
from guardrail.errors import ModelFileError

POLICY_TOKENS = 2_000
RESERVE = 4 << 30  # of a GPU's memory, for buffers, graphs and what others use


@dataclass(frozen=True, slots=True)
class Room:
    """One way to run a model. Bytes: `weights` once it runs, `loading` while it is loaded, `kv` for one token.

    `policies` of 2,000 tokens fit beside the weights in `memory` bytes (None: the device is not here), 4 GiB of a GPU aside.
    """

    name: str
    weights: int
    loading: int
    kv: int
    memory: int | None

    @property
    def policies(self) -> int | None:
        """How many fit, None where the memory is not known."""
        if self.memory is None:
            return None
        reserve = RESERVE if self.name.startswith("GPU") else 0
        return max(0, (self.memory - reserve - self.weights) // (self.kv * POLICY_TOKENS))


@dataclass(frozen=True, slots=True)
class Facts:
    """A model's shape, sizes and digests. `shape` is told in the configuration's own numbers."""

    architecture: str
    shape: tuple[tuple[str, int], ...]
    parameters: int
    stored: int
    dtype: str
    rooms: tuple[Room, ...]
    manifest: Manifest | None


def facts(place: str | Path) -> Facts:
    """Read them. Raises ModelFileError for a folder that holds no model."""
    source = locate(place)
    if not (source.folder / "config.json").is_file():
        raise ModelFileError(f"{place} has no config.json, so it is no model that can be read here")
    try:
        config = AutoConfig.from_pretrained(source.folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelFileError(f"{place} has a config.json that transformers cannot read ({reason(error)})") from error
    weights = [weight for path in source.shards() for weight in weights_of(path)]
    names = (
        "num_hidden_layers",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
    )
    limits = ("sliding_window", "max_position_embeddings")
    shape = tuple((name, int(value)) for name in (*names, *limits) if (value := getattr(config, name, None)) is not None)
    return Facts(
        architecture=str(config.model_type),
        shape=shape,
        parameters=sum(weight.count for weight in weights),
        stored=sum(weight.bytes(None) for weight in weights),
        dtype=", ".join(sorted({str(weight.dtype).removeprefix("torch.") for weight in weights})),
        rooms=tuple(_rooms(weights, KVShape.of(config))),
        manifest=manifests.read(source.folder),
    )


def _rooms(weights: list[Weight], shape: KVShape) -> Iterator[Room]:
    eighths = sum(weight.count for weight in weights if any(part in weight.name for parts in PARTS.values() for part in parts))
    rest = sum(weight.count for weight in weights) - eighths
    gpu = available("cuda") if torch.cuda.is_available() else None
    cpu = available("cpu")
    half, full = torch.bfloat16, torch.float32
    in_half, in_full = ((eighths + rest) * dtype.itemsize for dtype in (half, full))
    yield Room("GPU, bf16", in_half, needed(weights, half), shape.bytes_per_token(half), gpu)
    yield Room("GPU, fp8", eighths + rest * half.itemsize, needed(weights, half), shape.bytes_per_token(half), gpu)
    yield Room("CPU, fp32", in_full, needed(weights, full), shape.bytes_per_token(full), cpu)
    yield Room("CPU, int8", eighths + rest * full.itemsize, needed(weights, half), shape.bytes_per_token(full), cpu)
    yield Room("a GPU of 80 GB, bf16", in_half, needed(weights, half), shape.bytes_per_token(half), 78 << 30)
