"""From a decision's event to its record."""

import hmac
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType

from guardrail.audit.record import AuditRecord, PartRecord, VerdictRecord
from guardrail.events import DecisionMade
from guardrail.types import Action, Decision, Mode, Part, Stage, Verdict

LONGEST_PATH = 256
"""Characters of a part's path that are kept."""

ACTIONS = {action: action.word for action in Action}
MODES = {mode: mode.value for mode in Mode}
STAGES = {stage: stage.value for stage in Stage}
_ENCODE = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_PART_HMAC = 32  # hexadecimal digits: enough that no two texts of a store share them


def record_of(event: DecisionMade, key: bytes, *, time: float, trace: tuple[str, str] = ("", "")) -> AuditRecord:
    """The record of a decision, without its text. `key` is that of the texts' hashes, `trace` the trace and span it was made in."""
    verdicts = tuple(_verdict(verdict) for verdict in event.decision.verdicts)
    return replace(frame_of(event, key, time=time, trace=trace), verdicts=verdicts)


def frame_of(event: DecisionMade, key: bytes, *, time: float, trace: tuple[str, str] = ("", "")) -> AuditRecord:
    """`record_of` without the verdicts."""
    decision, outcome = event.decision, event.decision.outcome
    return AuditRecord(
        id=decision.id,
        time=time,
        tenant=plain(decision.tenant),
        route=plain(decision.route),
        stage=STAGES[decision.stage],
        mode=MODES[Mode.SHADOW if outcome.shadow > outcome.action else Mode.ENFORCE],
        action=ACTIONS[outcome.action],
        shadow=ACTIONS[outcome.shadow],
        unjudged=outcome.unjudged,
        unavailable=outcome.unavailable,
        unscannable=tuple([plain(path, 256) for path in decision.unscannable]),
        history=tuple([plain(change, 256) for change in decision.history]),
        classifier=_classifiers(decision),
        generation=decision.generation,
        timings=MappingProxyType({"judging": round(decision.duration_s, 6)}),
        request_id=plain(event.request_id),
        trace_id=trace[0],
        span_id=trace[1],
        model=plain(event.model),
        protocol=plain(event.protocol),
        stream=event.stream,
        parts=tuple([_part(part, key) for part in event.parts]),
        characters=sum([len(part.text or "") for part in event.parts]),
        text_hmac=texts_hmac(event.parts, key),
    )


def texts_hmac(parts: Sequence[Part], key: bytes) -> str:
    """The keyed hash of everything that was judged: each part's text with its place."""
    said = _ENCODE([[plain(part.path, LONGEST_PATH), part.choice, part.text] for part in parts])
    return f"hmac-sha256:{_keyed(key, b'texts' + said.encode())}"


def text_hmac(text: str | None, key: bytes) -> str:
    """The keyed hash of one part's text; "" for no text."""
    return "" if text is None else _keyed(key, b"text" + text.encode("utf-8", "replace"))[:_PART_HMAC]


def _keyed(key: bytes, message: bytes) -> str:
    """HMAC-SHA-256. `hmac.digest` lets go of the interpreter each time, and to get it back from a thread that serves requests takes longer
    than all the rest of a record; this does so for long messages only."""
    begun = _begun(key).copy()
    begun.update(message)
    return begun.hexdigest()


@lru_cache(8)
def _begun(key: bytes) -> hmac.HMAC:
    return hmac.new(key, digestmod="sha256")


def plain(text: str, limit: int = 128) -> str:
    """A name on one printable line of at most `limit` characters."""
    if len(text) <= limit and text.isprintable():  # nearly always
        return text
    return "".join(each if each.isprintable() else "?" for each in text[:limit])


def _classifiers(decision: Decision) -> str:
    return ", ".join(dict.fromkeys([verdict.classifier for verdict in decision.verdicts]))


def _part(part: Part, key: bytes) -> PartRecord:
    characters, hashed = len(part.text or ""), text_hmac(part.text, key)
    pieces = tuple([(plain(path, LONGEST_PATH), begin, cut) for path, begin, cut in part.pieces])
    return PartRecord(plain(part.path, LONGEST_PATH), plain(part.role, 64), plain(part.kind, 64), part.choice, characters, hashed, pieces)


def _verdict(verdict: Verdict) -> VerdictRecord:
    return VerdictRecord(
        policy=verdict.policy_id,
        version=verdict.policy_version,
        digest=verdict.policy_digest,
        threshold=float(verdict.threshold),
        action=ACTIONS[verdict.action],
        mode=MODES[verdict.mode],
        part=plain(verdict.part, LONGEST_PATH),
        classifier=verdict.classifier,
        score=verdict.score,
        error=None if verdict.error is None else plain(verdict.error, 64),
        span=verdict.span,
        criterion=None if verdict.criterion is None else plain(verdict.criterion),
        choice=verdict.choice,
        flags=verdict.flags,
        reading=verdict.reading,
        provenance=verdict.provenance,
    )
