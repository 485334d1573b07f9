"""Labelled evaluation data: gzipped JSONL, one set a file, as described beside the data. Read for measuring, never shipped or quoted."""

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled text. `label` is 1 (violates the area's natural policy), 0, or None where unknown."""

    id: str
    area: str
    text: str
    label: int | None


def read_set(data: Path, name: str, *, areas: Iterable[str] | None = None) -> list[Item]:
    """A set's rows with a known label, of some areas or all. Raises FileNotFoundError that says where data is looked for."""
    path = data / f"{name}.jsonl.gz"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such set; set GUARDRAIL_DATA to the folder that holds the labelled data")
    wanted = set(areas) if areas is not None else None
    found = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["label"] is not None and (wanted is None or row["area"] in wanted):
                found.append(Item(str(row["id"]), row["area"], row["text"], row["label"]))
    return found
