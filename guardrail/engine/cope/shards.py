"""Merged weights onto disk in files of a few GiB, so that an interruption costs one file and memory holds one file."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from guardrail.engine.cope import manifest as manifests
from guardrail.engine.cope.lora import Adapter, merged
from guardrail.engine.cope.manifest import Delta, FileRecord
from guardrail.engine.cope.source import INDEX, SINGLE
from guardrail.errors import ModelFileError

STATE = "unfinished.json"
_LONGEST_HEADER = 100_000_000
_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}

Done = Callable[[int], None]  # told how many more bytes are done


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight of a file: number of values, and the type it is stored in."""

    name: str
    path: Path
    count: int
    dtype: torch.dtype

    def bytes(self, dtype: torch.dtype | None) -> int:
        """Its size in a type, its own for None."""
        return self.count * (dtype or self.dtype).itemsize

    def read(self) -> Tensor:
        """Its value, on the CPU."""
        with safe_open(self.path, framework="pt") as file:
            value: Tensor = file.get_tensor(self.name)
        return value


def weights_of(path: Path) -> list[Weight]:
    """What a safetensors file holds, by its header alone: nothing else is read or mapped.

    Raises ModelFileError for a damaged one or a type that no model here has.
    """
    try:
        header = _header(path)
        found = [(name, entry["dtype"], math.prod(entry["shape"]), entry["data_offsets"]) for name, entry in header.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{path} is damaged ({type(error).__name__}: {error}); download or copy it again") from error
    strange = [f"{name} is of type {kind}" for name, kind, _, _ in found if kind not in _DTYPES]
    if strange:
        raise ModelFileError(f"{path}: {strange[0]}; known are {', '.join(_DTYPES)}")
    return [Weight(name, path, count, _DTYPES[kind]) for name, kind, count, _ in sorted(found, key=lambda entry: entry[3])]


def _header(path: Path) -> dict[str, Any]:
    """Eight bytes of length, then JSON: https://github.com/huggingface/safetensors#format."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _LONGEST_HEADER:
            raise ValueError("its header has no sensible length")
        header: dict[str, Any] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if path.stat().st_size != end:
        raise ValueError(f"it has {path.stat().st_size:,} of {end:,} bytes")
    return header


def layout(paths: tuple[Path, ...], dtype: torch.dtype | None, most_bytes: int) -> list[list[Weight]]:
    """The weights of some files, in order, in groups of at most `most_bytes` each (or of one weight)."""
    groups: list[list[Weight]] = [[]]
    size = 0
    for weight in (weight for path in paths for weight in weights_of(path)):
        if groups[-1] and size + weight.bytes(dtype) > most_bytes:
            groups.append([])
            size = 0
        groups[-1].append(weight)
        size += weight.bytes(dtype)
    return groups


def merged_weights(group: list[Weight], adapter: Adapter, dtype: torch.dtype | None) -> Iterator[tuple[Weight, Tensor, "Sums | None"]]:
    """Each weight as it is in the merged model; with what the adapter did to it where it did something."""
    for weight in group:
        value = weight.read()
        delta = adapter.delta(weight.name)
        if delta is None:
            yield weight, value.to(dtype or value.dtype), None
            continue
        result = merged(value, delta, dtype or value.dtype)
        wanted = value.float() + delta
        lost = (result.float() - wanted).double().square().sum()
        yield weight, result, Sums(1, _square(value), _square(delta), float(lost))


@dataclass(frozen=True, slots=True)
class Sums:
    """Squares summed over weights of one kind: the base's, the change's, the rounding's."""

    tensors: int = 0
    weight: float = 0.0
    delta: float = 0.0
    lost: float = 0.0

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.tensors + other.tensors, self.weight + other.weight, self.delta + other.delta, self.lost + other.lost)

    def as_delta(self, kind: str) -> Delta:
        """As norms."""
        return Delta(kind, self.tensors, math.sqrt(self.weight), math.sqrt(self.delta), math.sqrt(self.lost))


@dataclass(slots=True)
class Progress:
    """What of a merge is on disk: `key` names what is merged, `files` and `sums` what each finished file holds."""

    key: str
    files: dict[str, FileRecord] = field(default_factory=dict)
    sums: dict[str, dict[str, Sums]] = field(default_factory=dict)

    @classmethod
    def resume(cls, folder: Path, key: str) -> "Progress":
        """What an interrupted merge of the same things left, its files held against their digests; else a new start."""
        try:
            found = json.loads((folder / STATE).read_text(encoding="utf-8"))
            files = {name: FileRecord(**record) for name, record in found["files"].items()}
            sums = {name: {kind: Sums(**values) for kind, values in kinds.items()} for name, kinds in found["sums"].items()}
            same = found["key"] == key
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls(key)
        whole = [name for name, record in files.items() if (folder / name).is_file() and manifests.record(folder / name) == record]
        return cls(key, {name: files[name] for name in whole}, {name: sums[name] for name in whole}) if same else cls(key)

    def save(self, folder: Path) -> None:
        """Write it down, whole or not at all."""
        sums = {name: {kind: asdict(values) for kind, values in kinds.items()} for name, kinds in self.sums.items()}
        document = {"key": self.key, "files": {name: asdict(record) for name, record in self.files.items()}, "sums": sums}
        unfinished = folder / f"{STATE}.part"
        unfinished.write_text(json.dumps(document), encoding="utf-8")
        unfinished.replace(folder / STATE)

    def deltas(self) -> tuple[Delta, ...]:
        """Norms of each kind of projection, over all files."""
        total: dict[str, Sums] = {}
        for kinds in self.sums.values():
            for kind, values in kinds.items():
                total[kind] = total.get(kind, Sums()) + values
        return tuple(values.as_delta(kind) for kind, values in sorted(total.items()))


def write_shards(
    folder: Path, groups: list[list[Weight]], adapter: Adapter, dtype: torch.dtype | None, done: tuple[Progress, Done]
) -> None:
    """Merge and write what is not on disk yet, a file for each group, and the index that names them."""
    progress, report = done
    names = [SINGLE] if len(groups) == 1 else [f"model-{number:05}-of-{len(groups):05}.safetensors" for number in range(1, len(groups) + 1)]
    for name, group in zip(names, groups, strict=True):
        size = sum(weight.bytes(dtype) for weight in group)
        if name in progress.files:
            report(2 * size)
            continue
        tensors, sums = {}, dict[str, Sums]()
        for weight, value, changed in merged_weights(group, adapter, dtype):
            tensors[weight.name] = value.contiguous()
            report(weight.bytes(dtype))
            if changed is not None:
                kind = weight.name.removesuffix(".weight").rpartition(".")[2]
                sums[kind] = sums.get(kind, Sums()) + changed
        unfinished = folder / f"{name}.part"
        save_file(tensors, unfinished, {"format": "pt"})
        unfinished.replace(folder / name)
        progress.files[name], progress.sums[name] = manifests.record(folder / name, report), sums
        progress.save(folder)
    if len(groups) > 1:
        places = {weight.name: name for name, group in zip(names, groups, strict=True) for weight in group}
        index = {"metadata": {"total_size": sum(weight.bytes(dtype) for group in groups for weight in group)}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")


def _square(value: Tensor) -> float:
    return float(value.double().square().sum())
