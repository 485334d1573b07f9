"""Examples for a causal language model: a policy, a content, and the answer. Read from JSON lines, checked, split by unit."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guardrail.errors import GuardrailError
from guardrail.training.triples import MANIFEST, TRIPLES


@dataclass(frozen=True, slots=True)
class Example:
    """`policy`: the text that stands in the prompt. `label` 1: the content violates it. Examples of one `unit` leak into each other."""

    policy: str
    content: str
    label: int
    weight: float
    unit: str
    kind: str


@dataclass(frozen=True, slots=True)
class Examples:
    """All of some files, in order. `digest`: sha256 over the files' bytes; `manifest`: over the manifest beside them, empty without."""

    rows: tuple[Example, ...]
    digest: str
    manifest: str = ""


def read(places: Sequence[Path]) -> Examples:
    """Files of JSON lines, or folders with `triples.jsonl` and `manifest.json` as `guardrail train contradictory` writes them.

    A line has `policy`, `content`, `label` (0 or 1) and, if wanted, `weight`, `unit` and `kind`; other keys are not read. Raises
    GuardrailError in one sentence with file and line, or where a file is not the one that its manifest describes.
    """
    rows: list[Example] = []
    files, manifests = hashlib.sha256(), hashlib.sha256()
    described = False
    for place in places:
        file = place / TRIPLES if place.is_dir() else place
        try:
            data = file.read_bytes()
        except OSError as error:
            raise GuardrailError(f"{file} cannot be read ({error.strerror})") from error
        files.update(data)
        manifest = file.with_name(MANIFEST)
        if file.name == TRIPLES and manifest.is_file():
            manifests.update(_described(manifest, data))
            described = True
        rows += _parsed(file, data)
    if not rows:
        raise GuardrailError(f"{', '.join(map(str, places))}: there are no examples")
    return Examples(tuple(rows), f"sha256:{files.hexdigest()}", f"sha256:{manifests.hexdigest()}" if described else "")


def split(rows: Iterable[Example], one_in: int) -> tuple[list[Example], list[Example]]:
    """Learnt and held-out examples: one unit in so many is held out, by a hash of its name, whatever the seed. 0 holds out nothing.

    A content is its own unit where a row names none, so that it never stands on both sides under different policies.
    """
    learnt: list[Example] = []
    kept: list[Example] = []
    for row in rows:
        chosen = one_in > 0 and _number(row.unit) % one_in == 0
        (kept if chosen else learnt).append(row)
    return learnt, kept


def without(rows: Iterable[Example], others: Iterable[Example]) -> list[Example]:
    """The rows that share neither unit nor content with the others."""
    units, contents = set(), set()
    for other in others:
        units.add(other.unit)
        contents.add(_plain(other.content))
    return [row for row in rows if row.unit not in units and _plain(row.content) not in contents]


def _number(unit: str) -> int:
    """Salted, since the shipped model's own held-out units are already missing from the triples that it was made of."""
    return int.from_bytes(hashlib.sha256(f"cope:{unit}".encode("utf-8", "surrogatepass")).digest()[:4])


def _plain(content: str) -> str:
    return " ".join(content.casefold().split())


def _described(manifest: Path, data: bytes) -> bytes:
    text = manifest.read_bytes()
    try:
        stated = json.loads(text)["triples"]["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise GuardrailError(f"{manifest}: it is no manifest of triples ({error!r}); write them again, or give the file alone") from error
    if stated != hashlib.sha256(data).hexdigest():
        raise GuardrailError(f"{manifest}: {TRIPLES} beside it is not the file that it describes; write both again")
    return text


def _parsed(file: Path, data: bytes) -> Iterator[Example]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data.count(b"\n", 0, error.start)
        raise GuardrailError(f"{file}:{before + 1}: this is not UTF-8") from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield _example(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise GuardrailError(f"{file}:{number}: {error}") from error


def _example(row: Any) -> Example:
    """Raises ValueError saying what is wrong."""
    if not isinstance(row, dict):
        raise ValueError(  # noqa: TRY004  (what a file says, not what a caller did)
            'a line is a JSON object with "policy", "content" and "label"'
        )
    texts = {name: _text(row, name) for name in ("policy", "content")}
    label, weight = row.get("label"), row.get("weight", 1.0)
    if isinstance(label, bool) or label not in (0, 1):
        raise ValueError(f'"label" is {json.dumps(label)}; it is 1 where the content violates the policy and 0 where it does not')
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight) or weight <= 0:
        raise ValueError(f'"weight" is {json.dumps(weight)}; it is a number above 0')
    unit = row.get("unit") or _plain(texts["content"])
    return Example(texts["policy"], texts["content"], int(label), float(weight), str(unit), str(row.get("kind", "")))


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f'"{name}" is {"missing" if value is None else "no text, or an empty one"}')
    return value
