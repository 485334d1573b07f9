"""Labelled evaluation data: JSONL (gzipped or not) and CSV. Read for measuring, never shipped or quoted.

One row a text. Columns: `text` (required); `label`: 1 (violates), 0, or null / empty where unknown; `id` (default: the row's number);
`area`: the subject, which says whose policy is asked (default: every policy); `labels`: original finer labels, a list, in CSV with `|`
between them; `unit`: rows that leak into each other; `kind`: user_content, llm_prompt or llm_response; `context`: what came before the
text (of an answer: its prompt); `lang`: its language (default: en). `unit`, `kind`, `lang` and `prompt` may also stand in an object
`meta`. Other columns are ignored.
"""

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from guardrail.errors import GuardrailError
from guardrail.types import Stage

ANSWER = "llm_response"
ANY_AREA = ":any"
LABELS: dict[object, int | None] = {1: 1, 0: 0, "1": 1, "0": 0, None: None, "": None}
ENDINGS = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz")


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled text. `label` is 1 (violates the area's natural policy), 0, or None where unknown.

    `sub_labels` are the set's own finer labels, `unit` groups texts that must not be split (empty: itself alone).
    """

    id: str
    area: str
    text: str
    label: int | None
    sub_labels: tuple[str, ...] = ()
    unit: str = ""
    set: str = ""
    kind: str = "user_content"
    context: str | None = None
    lang: str = "en"

    @property
    def stage(self) -> Stage:
        """Whether it is a prompt or an answer."""
        return Stage.OUTPUT if self.kind == ANSWER else Stage.INPUT


@dataclass(frozen=True, slots=True)
class DataSet:
    """A named set of items; `sha256` (hexadecimal) is of its file's bytes."""

    name: str
    sha256: str
    items: tuple[Item, ...]


def open_set(wanted: str, data: Path | None) -> DataSet:
    """A set by the path of its file, or by its name in the folder `data`; with `:any` behind it, `in_any_area`.

    Raises GuardrailError when there is none, or it is malformed.
    """
    if wanted.endswith(ANY_AREA):
        return in_any_area(open_set(wanted.removesuffix(ANY_AREA), data))
    if wanted.endswith(ENDINGS):
        path = Path(wanted)
        name = path.name.removesuffix(".gz").rsplit(".", 1)[0]
    elif data is None:
        raise GuardrailError(f"no folder to look for the set {wanted!r} in: set GUARDRAIL_DATA, or name a .jsonl or .csv file")
    else:
        path, name = data / f"{wanted}.jsonl.gz", wanted
    if not path.is_file():
        raise GuardrailError(f"{path}: there is no such set; name a .jsonl or .csv file, or a set in the folder of GUARDRAIL_DATA")
    return read_file(path, name)


def in_any_area(data: DataSet) -> DataSet:
    """Each text once, without an area: violating when it violates in any, not when it is known to violate in none."""
    texts: dict[str, list[Item]] = {}
    for item in data.items:
        texts.setdefault(item.text, []).append(item)
    name = data.name + ANY_AREA
    return replace(data, name=name, items=tuple(_merged(items, name) for items in texts.values()))


def _merged(items: list[Item], name: str) -> Item:
    known = [item.label for item in items if item.label is not None]
    finer = dict.fromkeys(label for item in items for label in item.sub_labels)
    return replace(items[0], set=name, area="", label=max(known, default=None), sub_labels=tuple(finer))


def read_file(path: Path, name: str) -> DataSet:
    """All rows of a file. Raises GuardrailError with path and row (the header of CSV not counted) of what is malformed, and for no rows."""
    raw = path.read_bytes()
    items: list[Item] = []
    known: set[str] = set()
    try:
        lines = io.StringIO((gzip.decompress(raw) if path.name.endswith(".gz") else raw).decode("utf-8"), newline="")
        rows = _csv_rows(lines) if path.name.removesuffix(".gz").endswith(".csv") else _json_rows(lines)
        for number, row in enumerate(rows, start=1):
            item = _item(row, number, name)
            if item.id in known:
                raise ValueError(f"row {number}: the id {item.id!r} is there twice")
            known.add(item.id)
            items.append(item)
    except (ValueError, csv.Error, gzip.BadGzipFile, EOFError) as error:
        raise GuardrailError(f"{path}: {error}") from error
    if not items:
        raise GuardrailError(f"{path}: there are no rows")
    return DataSet(name, hashlib.sha256(raw).hexdigest(), tuple(items))


def _csv_rows(lines: IO[str]) -> Iterator[Mapping[str, object]]:
    for row in csv.DictReader(lines):
        labels = row.get("labels") or ""
        yield {**{key: value for key, value in row.items() if value}, "labels": [part for part in labels.split("|") if part]}


def _json_rows(lines: IO[str]) -> Iterator[Mapping[str, object]]:
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"row {number}: not JSON: {error.msg}") from error
        if not isinstance(row, dict):
            raise ValueError(f"row {number}: not a JSON object")  # noqa: TRY004  (the data's mistake, not the caller's)
        yield row


def _item(row: Mapping[str, object], number: int, name: str) -> Item:
    text, label = row.get("text"), row.get("label")
    if not isinstance(text, str) or not text:
        raise ValueError(f"row {number}: `text` must be a text that is not empty")
    if not isinstance(label, int | str | None) or label not in LABELS:
        raise ValueError(f"row {number}: `label` must be 1, 0, or null where it is unknown, not {label!r}")
    extra = row.get("meta")
    found = {**(extra if isinstance(extra, dict) else {}), **row}
    labels = row.get("labels")
    context = found.get("context") or found.get("prompt")
    return Item(
        id=str(row.get("id") or number),
        area=str(row.get("area") or ""),
        text=text,
        label=LABELS[label],
        sub_labels=tuple(map(str, labels)) if isinstance(labels, list) else (),
        unit=str(found.get("unit") or ""),
        set=name,
        kind=str(found.get("kind") or "user_content"),
        context=context if isinstance(context, str) else None,
        lang=str(found.get("lang") or "en"),
    )
