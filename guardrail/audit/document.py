"""A record as plain values, for JSON and for tables."""

import json
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from guardrail.audit.record import AuditRecord, PartRecord, VerdictRecord
from guardrail.types import Part, Provenance, Span

_PLAIN = (AuditRecord, PartRecord, VerdictRecord, Part, Provenance, Span)


def document(record: AuditRecord) -> dict[str, Any]:
    """Every field by its name, and the time as ISO 8601 beside it. `content` is there only where the record has it."""
    plain: dict[str, Any] = _plain(record)
    plain["at"] = instant(record.time)
    if record.content is None:
        del plain["content"]
    return plain


def flat(record: AuditRecord) -> dict[str, Any]:
    """One row of a table: what has parts of its own is JSON text."""
    row = document(record) | {"content": None if record.content is None else _plain(record.content)}
    row["violated"] = [verdict.policy for verdict in record.violations]
    row["duration_s"] = record.duration_s
    return {
        name: json.dumps(value) if isinstance(value, dict | list) and value and name != "violated" else value for name, value in row.items()
    } | {name: None for name, value in row.items() if isinstance(value, dict | list) and not value and name != "violated"}


def instant(seconds: float) -> str:
    """A time since 1970 in ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _plain(value: Any) -> Any:
    if isinstance(value, _PLAIN):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value
