"""What a multilabel adapter learns from: texts with what is known of each under each category.

JSON lines, gzipped or not, one text a row. Either `{"text": …, "labels": {"category": 1 | 0 | null, …}}`, where a category that is null or
missing is unknown, and unknown labels teach nothing; or a row of the evaluation's schema, `{"text": …, "area": …, "label": 1 | 0 | null}`,
where the area is the category: label 0 with the area `benign`, `general_harm` or none says 0 of every category, label 1 there says nothing.
`unit` (also in an object `meta`) names rows that leak into each other; they are never split. Rows of one text are one row.
"""

import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guardrail.engine.adapter.frame import key
from guardrail.errors import GuardrailError
from guardrail.units import held_out, unit_of

NO_CATEGORY = frozenset({"", "benign", "general_harm"})
REPORTED, HELD_OUT = 10, 5  # one unit in ten is only reported on, one in five is held out: the rest of these choose the thresholds


@dataclass(frozen=True, slots=True)
class AdapterRow:
    """A text; `labels` by category where known, 0 or 1; `unit`: the name of those it leaks into."""

    text: str
    labels: Mapping[str, int]
    unit: str


@dataclass(frozen=True, slots=True)
class AdapterData:
    """Rows by what they are for, the categories in the order of the head's outputs, and a digest of all of it.

    `learnt` is trained on, `calibrating` chooses thresholds and calibrations, `reported` measures what came out; no unit is in two of
    them. `unlabelled` rows said nothing of any category and were left out.
    """

    categories: tuple[str, ...]
    learnt: tuple[AdapterRow, ...]
    calibrating: tuple[AdapterRow, ...]
    reported: tuple[AdapterRow, ...]
    digest: str
    unlabelled: int

    def count(self, category: str, label: int) -> int:
        """Texts that are trained on and have this label."""
        return sum(row.labels.get(category) == label for row in self.learnt)


def read_data(paths: Sequence[Path], categories: Sequence[str] = ()) -> AdapterData:
    """Read and split. `categories`: which of them, in this order; default: all that occur, by name.

    Raises GuardrailError with file and row for what is malformed, and for a category that has not both labels among what is trained on.
    """
    raw = [row for path in paths for row in _rows(path)]
    found = sorted({name for row in raw for name in row.labels if name is not None})
    chosen = tuple(categories) or tuple(found)
    spelled = {key(name): name for name in chosen}
    if len(spelled) < len(chosen):
        raise GuardrailError("two categories have the same name; case, spaces and punctuation do not count")
    if not chosen:
        raise GuardrailError(f"{', '.join(map(str, paths))}: no row names a category, in `labels` or as an `area`")
    rows = _merged(raw, spelled)
    known = [row for row in rows if row.labels]
    reported = tuple(row for row in known if held_out(row.unit, REPORTED))
    calibrating = tuple(row for row in known if held_out(row.unit, HELD_OUT) and not held_out(row.unit, REPORTED))
    learnt = tuple(row for row in known if not held_out(row.unit, HELD_OUT))
    digest = hashlib.sha256(json.dumps([chosen, [(row.text, sorted(row.labels.items()), row.unit) for row in known]]).encode())
    data = AdapterData(chosen, learnt, calibrating, reported, f"sha256:{digest.hexdigest()}", len(rows) - len(known))
    for category in chosen:
        if lacking := [label for label in (1, 0) if not data.count(category, label)]:
            raise GuardrailError(
                f"no text with label {lacking[0]} of {category!r} is left to train on; add some, or name other categories with --category"
            )
    return data


@dataclass(frozen=True, slots=True)
class _Raw:
    """`labels`: None stands for every category."""

    text: str
    labels: Mapping[str | None, int]
    unit: str


def _rows(path: Path) -> Iterator[_Raw]:
    try:
        text = path.read_bytes()
        lines = (gzip.decompress(text) if path.name.endswith(".gz") else text).decode("utf-8").splitlines()
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _row(json.loads(line), number, path.name.split(".")[0])
    except (OSError, ValueError, EOFError) as error:
        raise GuardrailError(f"{path}: {error}") from error


def _row(row: Any, number: int, source: str) -> _Raw:
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"row {number}: `text` must be a text that is not empty")
    meta = row.get("meta")
    found = {**(meta if isinstance(meta, dict) else {}), **row}
    labels = row.get("labels")
    if isinstance(labels, dict):
        known: dict[str | None, int | None] = dict(labels)
    else:
        area = str(row.get("area") or "")
        label = row.get("label")
        known = {None: label if label == 0 else None} if area in NO_CATEGORY else {area: label}
    if wrong := next((value for value in known.values() if value not in (0, 1, None) or isinstance(value, bool)), None):
        raise ValueError(f"row {number}: a label is 1, 0, or null where it is unknown, not {wrong!r}")
    unit = unit_of(source, str(found.get("unit") or ""), _plain(text))
    return _Raw(text, {name: value for name, value in known.items() if value is not None}, unit)


def _plain(text: str) -> str:
    """What texts have in common that differ in case and spacing alone: they are one unit where no other is named."""
    return " ".join(text.casefold().split())


def _merged(raw: Sequence[_Raw], spelled: Mapping[str, str]) -> list[AdapterRow]:
    """One row a text; where two disagree about a category it is unknown. Units that share a text become one."""
    labels: dict[str, dict[str, set[int]]] = {}
    first: dict[str, str] = {}
    joined: dict[str, str] = {}

    def root(unit: str) -> str:
        while joined.get(unit, unit) != unit:
            unit = joined[unit]
        return unit

    for row in raw:
        known = labels.setdefault(row.text, {})
        one, other = root(first.setdefault(row.text, row.unit)), root(row.unit)
        joined[max(one, other)] = min(one, other)
        for name, label in row.labels.items():
            for category in spelled.values() if name is None else filter(None, [spelled.get(key(name))]):
                known.setdefault(category, set()).add(label)
    return [
        AdapterRow(text, {name: min(found) for name, found in known.items() if len(found) == 1}, root(first[text]))
        for text, known in labels.items()
    ]
