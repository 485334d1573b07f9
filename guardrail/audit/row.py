"""A record as a row of the table, and back: columns that can be searched, and a body that names each policy and each part once."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from operator import attrgetter
from types import MappingProxyType
from typing import Any, NamedTuple, cast

from guardrail.audit.chain import Value
from guardrail.audit.made import ACTIONS, LONGEST_PATH, MODES, plain
from guardrail.audit.record import AuditRecord, PartRecord, VerdictRecord
from guardrail.audit.schema import COLUMNS
from guardrail.errors import GuardrailError
from guardrail.types import Action, Mode, Provenance, Span, Verdict

SELECTED = ", ".join((*COLUMNS, "body"))
"""What `record_of_row` reads, in its order."""

_Policy = tuple[str, str, str, float, str, str]
"""Id, version, digest, threshold, action and mode."""

_Made = tuple[str, str, str, float, Action, Mode, str, int | None, str]
_MADE: Callable[[Verdict], _Made] = attrgetter(
    "policy_id", "policy_version", "policy_digest", "threshold", "action", "mode", "part", "choice", "classifier"
)
"""All of a verdict but what it says."""
_MOST_ALIKE = 64
"""Verdicts of the largest decision whose shape is remembered."""

_ENCODE = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode


class UnreadableRecordError(GuardrailError):
    """A row does not hold a record: it was damaged."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A record that is to be written. `made` are its verdicts as the guard made them, where it has none of its own yet: to put them into
    the record's form first would cost as much as the rest of the writing."""

    record: AuditRecord
    made: tuple[Verdict, ...] = ()

    def row(self) -> "Row":
        """What is written of it: made outside of the transaction that it goes into, and where its faults are its own.

        Raises ValueError or TypeError for what cannot be written.
        """
        columns = columns_of(self)
        return Row(self.record, columns, _ENCODE(columns)[1:-1], body_of(self))

    @property
    def policies(self) -> tuple[dict[str, None], dict[str, None], dict[str, None]]:
        """Those that judged, those of them that were violated where it is enforced, and those that were violated in shadow only."""
        every: Sequence[Verdict | VerdictRecord] = self.made or self.record.verdicts
        names = [each.policy_id for each in self.made] or [each.policy for each in self.record.verdicts]
        violated = [place for place, each in enumerate(every) if each.score is not None and each.score >= each.threshold]
        enforced = dict.fromkeys([names[place] for place in violated if every[place].mode == Mode.ENFORCE.value])
        watched = dict.fromkeys([names[place] for place in violated if names[place] not in enforced])
        return dict.fromkeys(names), enforced, watched


class Row(NamedTuple):
    """A record as it is written, but for what only the store knows: `columns` lack the first, its number, and the last, the digest of its
    content. `spelled` is `columns` as JSON, without brackets."""

    record: AuditRecord
    columns: tuple[Value, ...]
    spelled: str
    body: str

    def whole(self, sequence: int, content_digest: str) -> tuple[Value, ...]:
        """The columns, in the order of `COLUMNS`."""
        return sequence, *self.columns, content_digest

    def hashed(self, sequence: int, content_digest: str) -> str:
        """The same as a JSON list, as it goes into the hash."""
        return f"[{sequence},{self.spelled},{_ENCODE(content_digest)}]"


def columns_of(entry: Entry) -> tuple[Value, ...]:
    """The columns, in the order of `COLUMNS`, without the two that only the store knows: the first and the last."""
    record = entry.record
    judged, enforced, watched = entry.policies
    return (
        record.kind,
        record.id,
        float(record.time),
        record.tenant,
        record.route,
        record.stage,
        record.mode,
        record.action,
        record.shadow,
        int(record.unjudged),
        int(record.unavailable),
        record.generation,
        float(record.duration_s),
        listed(judged),
        violations(enforced, watched),
        record.request_id,
        record.trace_id,
        record.text_hmac,
    )


def listed(names: Sequence[str] | dict[str, None]) -> str:
    """Names such that one of them can be looked for between commas; "" for none."""
    return f",{','.join(names)}," if names else ""


def violations(enforced: Sequence[str] | dict[str, None], watched: Sequence[str] | dict[str, None]) -> str:
    """The names of violated policies: those that are enforced, and behind an empty name those that only record. Each can be looked for."""
    return listed([*enforced, *(("", *watched) if watched else ())])


def violated_in(column: str) -> tuple[list[str], list[str]]:
    """The two kinds of names that `violations` listed."""
    enforced, _, watched = column.partition(",,")
    return [name for name in enforced.split(",") if name], [name for name in watched.split(",") if name]


def body_of(entry: Entry) -> str:
    """Everything that is in no column, as JSON."""
    record = entry.record
    judged = _plainly(entry.made, record.parts) if entry.made else None
    document = {
        "parts": [_part(part) for part in record.parts],
        "unscannable": record.unscannable,
        "history": record.history,
        "classifier": record.classifier,
        "timings": dict(record.timings),
        "span_id": record.span_id,
        "model": record.model,
        "protocol": record.protocol,
        "stream": record.stream,
        "characters": record.characters,
        "keeps": record.keeps,
        "note": dict(record.note),
    }
    if judged is None:
        document |= _judged(entry.made or record.verdicts, record.parts)
    rest = _ENCODE({name: value for name, value in document.items() if value})
    return rest if judged is None else f"{{{judged},{rest[1:]}"


def _judged(verdicts: Sequence[Verdict] | Sequence[VerdictRecord], judged: Sequence[PartRecord]) -> dict[str, list[Any]]:
    """The verdicts, in which policies, classifiers and parts are numbers."""
    policies: dict[_Policy, int] = {}
    classifiers: dict[str, int] = {}
    parts = {(part.path, part.choice): place for place, part in enumerate(judged)}
    written: list[Any] = []
    for verdict in verdicts:
        policy = policies.setdefault(_policy(verdict), len(policies))
        classifier = classifiers.setdefault(verdict.classifier, len(classifiers))
        path = plain(verdict.part, LONGEST_PATH)
        part = parts.get((path, verdict.choice), (path, verdict.choice))
        extra = _extra(verdict)
        written.append((policy, part, classifier, verdict.score, extra) if extra else (policy, part, classifier, verdict.score))
    return {"policies": list(policies), "classifiers": list(classifiers), "verdicts": written}


def _plainly(verdicts: Sequence[Verdict], judged: Sequence[PartRecord]) -> str | None:
    """What the encoder makes of `_judged`, without its braces, at a fifth of the cost; None for verdicts with more than scores to them.

    The same policies judge time and again, and nearly all they say is a score.
    """
    simple = [each for each in verdicts if not (each.flags or each.reading or each.span or each.provenance or each.criterion is not None)]
    scores = [float(each.score) for each in simple if each.score is not None and 0 <= each.score <= 1]
    if len(scores) != len(verdicts) or len(scores) > _MOST_ALIKE:
        return None
    shape = _shape(tuple(map(_MADE, verdicts)), tuple([(part.path, part.choice) for part in judged]))
    if shape is None:
        return None
    said = ",".join([f"{begin}{score!r}]" for begin, score in zip(shape.begins, scores, strict=True)])
    return f'{shape.names},"verdicts":[{said}]'


class _Shape(NamedTuple):
    """What decisions of the same policies about the same parts have in common: policies and classifiers, and how each verdict begins."""

    names: str
    begins: tuple[str, ...]


@lru_cache(256)
def _shape(verdicts: tuple[_Made, ...], judged: tuple[tuple[str, int | None], ...]) -> _Shape | None:
    """None where a verdict is of none of the parts."""
    policies, classifiers = list(dict.fromkeys(made[:6] for made in verdicts)), list(dict.fromkeys(made[8] for made in verdicts))
    if any(made[6:8] not in judged for made in verdicts):
        return None
    written = [(*made[:3], float(made[3]), ACTIONS[made[4]], MODES[made[5]]) for made in policies]
    begins = [f"[{policies.index(made[:6])},{judged.index(made[6:8])},{classifiers.index(made[8])}," for made in verdicts]
    return _Shape(f'"policies":{_ENCODE(written)},"classifiers":{_ENCODE(classifiers)}', tuple(begins))


def _part(part: PartRecord) -> list[Any]:
    """Few have pieces."""
    plain = [part.path, part.role, part.kind, part.choice, part.characters, part.hmac]
    return [*plain, part.pieces] if part.pieces else plain


def _policy(verdict: Verdict | VerdictRecord) -> _Policy:
    if isinstance(verdict, VerdictRecord):
        return verdict.policy, verdict.version, verdict.digest, verdict.threshold, verdict.action, verdict.mode
    action, mode = ACTIONS[verdict.action], MODES[verdict.mode]
    return verdict.policy_id, verdict.policy_version, verdict.policy_digest, float(verdict.threshold), action, mode


def _extra(verdict: Verdict | VerdictRecord) -> dict[str, Any]:
    """What only some verdicts have."""
    extra: dict[str, Any] = {}
    if verdict.error is not None:
        extra["error"] = plain(verdict.error, 64)
    if verdict.span is not None:
        extra["span"] = (verdict.span.start, verdict.span.end)
    if verdict.criterion is not None:
        extra["criterion"] = plain(verdict.criterion)
    if verdict.flags:
        extra["flags"] = verdict.flags
    if verdict.reading:
        extra["reading"] = verdict.reading
    if verdict.provenance is not None:
        extra["provenance"] = asdict(verdict.provenance)
    return extra


def record_of_row(row: Sequence[Any]) -> AuditRecord:
    """The record of a row of `SELECTED`, without its content. Raises UnreadableRecordError."""
    try:
        return _record(dict(zip(COLUMNS, row, strict=False)), json.loads(row[len(COLUMNS)]))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise UnreadableRecordError(f"record {row[0]!r} cannot be read; run `guardrail audit verify`") from error


def _record(column: dict[str, Any], body: dict[str, Any]) -> AuditRecord:
    parts = tuple(_part_of(part) for part in body.get("parts", ()))
    policies, classifiers = body.get("policies", ()), body.get("classifiers", ())
    return AuditRecord(
        id=column["id"],
        time=column["time"],
        sequence=column["sequence"],
        kind=column["kind"],
        tenant=column["tenant"],
        route=column["route"],
        stage=column["stage"],
        mode=column["mode"],
        action=column["action"],
        shadow=column["shadow"],
        unjudged=bool(column["unjudged"]),
        unavailable=bool(column["unavailable"]),
        verdicts=tuple(_verdict(verdict, policies, parts, classifiers) for verdict in body.get("verdicts", ())),
        unscannable=tuple(body.get("unscannable", ())),
        history=tuple(body.get("history", ())),
        classifier=body.get("classifier", ""),
        generation=column["generation"],
        timings=MappingProxyType(body.get("timings", {})),
        request_id=column["request_id"],
        trace_id=column["trace_id"],
        span_id=body.get("span_id", ""),
        model=body.get("model", ""),
        protocol=body.get("protocol", ""),
        stream=body.get("stream", False),
        parts=parts,
        characters=body.get("characters", 0),
        text_hmac=column["text_hmac"],
        keeps=body.get("keeps", "none"),
        content_digest=column["content_digest"],
        note=MappingProxyType(body.get("note", {})),
    )


def _part_of(row: list[Any]) -> PartRecord:
    path, role, kind, choice, characters, hashed, *pieces = row
    return PartRecord(path, role, kind, choice, characters, hashed, tuple(tuple(piece) for piece in (pieces[0] if pieces else ())))


def _verdict(row: list[Any], policies: Sequence[Any], parts: Sequence[PartRecord], classifiers: Sequence[str]) -> VerdictRecord:
    policy, part, classifier, score = row[:4]
    extra = cast("dict[str, Any]", row[4]) if len(row) > 4 else {}
    name, version, digest, threshold, action, mode = policies[policy]
    path, choice = (parts[part].path, parts[part].choice) if isinstance(part, int) else part
    return VerdictRecord(
        policy=name,
        version=version,
        digest=digest,
        threshold=threshold,
        action=action,
        mode=mode,
        part=path,
        classifier=classifiers[classifier],
        score=score,
        error=extra.get("error"),
        span=Span(*extra["span"]) if "span" in extra else None,
        criterion=extra.get("criterion"),
        choice=choice,
        flags=tuple(extra.get("flags", ())),
        reading=tuple(extra.get("reading", ())),
        provenance=Provenance(**extra["provenance"]) if "provenance" in extra else None,
    )
