"""What a merged model's folder says about itself: where it came from, and what every file in it must be."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from guardrail.calibration import IN_FOLDER as CALIBRATION
from guardrail.engine.cope.source import Source, read_json
from guardrail.errors import ModelFileError

FORMAT = "guardrail-cope/1"
NAME = "manifest.json"
_BLOCK = 1 << 22
# What a loader would read; a file of such a kind that the manifest does not know was put there by somebody else.
_READ = {".json", ".safetensors", ".jinja", ".model", ".py", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack"}

Report = Callable[[int], None]  # told how many more bytes are done


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file's size in bytes and sha256 (hexadecimal)."""

    bytes: int
    sha256: str


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True)
class Origin:
    """A model that went in: its name as it was given, the hub's commit if it came from there, `sha256:` over configuration and weights."""

    name: str
    digest: str
    revision: str | None = None


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True)
class Delta:
    """Frobenius norms over all projections of one kind: the base's weights, the adapter's change, what of it rounding lost."""

    kind: str
    tensors: int
    weight: float
    delta: float
    lost: float

    @property
    def relative(self) -> float:
        """The change against the weights."""
        return self.delta / self.weight if self.weight else 0.0

    @property
    def lost_share(self) -> float:
        """What rounding the sum to the stored type took away, against the change."""
        return self.lost / self.delta if self.delta else 0.0


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True)
class Manifest:
    """A merged model: `template` its prompts are made with, `dtype` of its weights, `tokenizer` digest, `files` by name."""

    base: Origin
    adapter: Origin | None
    template: str
    dtype: str
    tokenizer: str
    files: Mapping[str, FileRecord]
    tool: str
    deltas: tuple[Delta, ...] = ()
    format: str = FORMAT

    @property
    def digest(self) -> str:
        """`sha256:` over the digests of configuration and weights: the same for the same model wherever it lies."""
        if not self.files:  # made up for a folder that had none
            return self.base.digest
        return of_records({name: record.sha256 for name, record in self.files.items() if _is_model(name)})

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(record.bytes for record in self.files.values())


_READER = TypeAdapter(Manifest)


def read(folder: Path) -> Manifest | None:
    """The folder's manifest, None if it has none. Raises ModelFileError for one that cannot be used."""
    path = folder / NAME
    if not path.is_file():
        return None
    document = read_json(path)
    if document.get("format") != FORMAT:
        raise ModelFileError(f"{path}: format is {document.get('format')!r}, this version reads {FORMAT!r}; merge the model again")
    try:
        return _READER.validate_python(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ModelFileError(f"{path}: {place}: {first['msg']}; merge the model again") from error


def write(folder: Path, manifest: Manifest) -> None:
    """Put it into the folder, whole or not at all."""
    unfinished = folder / f"{NAME}.part"
    unfinished.write_bytes(_READER.dump_json(manifest, indent=1))
    unfinished.replace(folder / NAME)


def record(path: Path, report: Report | None = None) -> FileRecord:
    """Size and digest of a file. Raises ModelFileError when it cannot be read."""
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                size += len(block)
                if report is not None:
                    report(len(block))
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read ({error.strerror})") from error
    return FileRecord(size, digest.hexdigest())


def check(folder: Path, manifest: Manifest, report: Report | None = None) -> None:
    """Hold every file against its record. Raises ModelFileError naming the first that is missing, altered or not in the manifest.

    A calibration, which is fitted after the merge, need not be in it: it names the weights that it belongs to.
    """
    known = {NAME, CALIBRATION, *manifest.files}
    strange = sorted(path.name for path in folder.iterdir() if path.suffix in _READ and path.name not in known)
    if strange:
        raise ModelFileError(f"{folder / strange[0]} is not in the manifest; take it out of the folder, or merge the model again")
    for name, expected in manifest.files.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise ModelFileError(f"{path} is in the manifest and not there; copy the folder again, or merge the model again")
        size = path.stat().st_size
        if size != expected.bytes or record(path, report) != expected:
            raise ModelFileError(f"{path} is not the file that was written ({size:,} of {expected.bytes:,} bytes); copy the folder again")


def origin(source: Source, weights: tuple[Path, ...], report: Report | None = None) -> Origin:
    """Where a model came from, its weights and configuration read and digested."""
    settings = [path for name in ("config.json", "adapter_config.json") if (path := source.folder / name).is_file()]
    digests = {path.name: record(path, report).sha256 for path in (*settings, *weights)}
    return Origin(source.name, of_records(digests), source.revision)


def of_records(digests: Mapping[str, str]) -> str:
    """One digest over several files': names do not matter beyond their order."""
    lines = "".join(f"{digest}\n" for _, digest in sorted(digests.items()))
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def _is_model(name: str) -> bool:
    return name == "config.json" or name.endswith(".safetensors")
