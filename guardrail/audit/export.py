"""Records as files that other programs read: JSON lines, or Parquet where pyarrow is installed."""

import importlib
import json
from collections.abc import Iterable
from itertools import islice
from typing import Any, BinaryIO

from guardrail.audit.document import document, flat
from guardrail.audit.record import AuditRecord
from guardrail.errors import GuardrailError

_ROWS = 1_000
_NUMBERS = {"sequence": "int64", "generation": "int64", "characters": "int64", "time": "float64", "duration_s": "float64"}
_FLAGS = ("unjudged", "unavailable", "stream")
_WORDS = (
    "kind", "id", "at", "tenant", "route", "stage", "mode", "action", "shadow", "classifier", "request_id", "trace_id", "span_id", "model",
    "protocol", "text_hmac", "keeps", "content_digest", "verdicts", "parts", "unscannable", "history", "timings", "note", "content",
)  # fmt: skip


def write_jsonl(records: Iterable[AuditRecord], file: BinaryIO) -> int:
    """One JSON object a line; how many."""
    count = 0
    for record in records:
        file.write(json.dumps(document(record), separators=(",", ":")).encode() + b"\n")
        count += 1
    return count


def write_parquet(records: Iterable[AuditRecord], file: BinaryIO) -> int:
    """One row a record, nested values as JSON text; how many. Raises GuardrailError where pyarrow is not installed."""
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise GuardrailError("Parquet needs pyarrow, which is not installed; run: pip install 'guardrail[parquet]'") from error
    columns = [(name, getattr(arrow, kind)()) for name, kind in _NUMBERS.items()]
    columns += [(name, arrow.bool_()) for name in _FLAGS] + [(name, arrow.string()) for name in _WORDS]
    schema = arrow.schema([*columns, ("violated", arrow.list_(arrow.string()))])
    count, every = 0, iter(records)
    with parquet.ParquetWriter(file, schema) as writer:
        while rows := [flat(record) for record in islice(every, _ROWS)]:
            writer.write_table(arrow.Table.from_pylist(rows, schema=schema))
            count += len(rows)
    return count
