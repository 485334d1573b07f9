"""A stored decision beside one that was made of the same text again: what is the same, and what is not."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from guardrail.audit.made import text_hmac
from guardrail.audit.record import AuditRecord, VerdictRecord
from guardrail.errors import GuardrailError
from guardrail.types import Decision, Part, Verdict

TOLERANCE = 1e-3
"""How far two scores of the same text by the same policy may lie apart: they may come from differently padded passes."""


@dataclass(frozen=True, slots=True)
class Change:
    """One policy on one part, then and now. A score of None: it was not asked, or could not judge."""

    policy: str
    part: str
    version: tuple[str, str]
    score: tuple[float | None, float | None]
    threshold: tuple[float | None, float | None]
    violation: tuple[bool, bool]

    @property
    def same(self) -> bool:
        """Whether nothing changed."""
        then, now = self.score
        close = then == now or (then is not None and now is not None and abs(then - now) <= TOLERANCE)
        return close and self.violation[0] == self.violation[1] and self.version[0] == self.version[1]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All of them, and the action then and now."""

    changes: tuple[Change, ...]
    action: tuple[str, str]

    @property
    def flips(self) -> tuple[Change, ...]:
        """Where a violation became none, or the other way round."""
        return tuple(change for change in self.changes if change.violation[0] != change.violation[1])

    @property
    def same(self) -> bool:
        """Whether the same was decided for the same reasons."""
        return self.action[0] == self.action[1] and all(change.same for change in self.changes)


def parts_of(record: AuditRecord, texts: Sequence[str] | None, keys: Iterable[bytes]) -> tuple[Part, ...]:
    """What was judged: the kept text, or `texts`, one for each part that has one, if they are what was judged.

    Raises GuardrailError where neither is there, or a text is another one.
    """
    if texts is None:
        if record.content is None:
            raise GuardrailError(
                f"no text of decision {record.id} is kept, or its key is not at hand; give the text itself with --text or on standard input"
            )
        return record.content
    readable = [part for part in record.parts if part.hmac]
    if len(texts) != len(readable):
        raise GuardrailError(f"decision {record.id} judged {len(readable)} texts, and {len(texts)} are given: {places(record)}")
    given = iter(texts)
    parts = []
    known = tuple(keys)
    for part in record.parts:
        text = next(given) if part.hmac else None
        if text is not None and part.hmac not in (text_hmac(text, key) for key in known):
            raise GuardrailError(f"the text of {part.path} is not the one that was judged: its keyed hash is another one")
        parts.append(Part(part.path, text, part.role, part.kind, part.choice))
    return tuple(parts)


def places(record: AuditRecord) -> str:
    """The parts that have a text, in order."""
    return ", ".join(part.path for part in record.parts if part.hmac)


def compare(record: AuditRecord, decision: Decision) -> Comparison:
    """What changed between a stored decision and one made again, each policy on each part."""
    then = _strongest(record.verdicts)
    now = _strongest([_record_of(verdict) for verdict in decision.verdicts])
    changes = []
    for key in dict.fromkeys((*then, *now)):
        before, after = then.get(key), now.get(key)
        changes.append(
            Change(
                policy=key[0],
                part=key[1],
                version=(before.version if before else "", after.version if after else ""),
                score=(before.score if before else None, after.score if after else None),
                threshold=(before.threshold if before else None, after.threshold if after else None),
                violation=(before is not None and before.violation, after is not None and after.violation),
            )
        )
    return Comparison(tuple(changes), (record.action, decision.action.word))


def _strongest(verdicts: Iterable[VerdictRecord]) -> dict[tuple[str, str, int | None], VerdictRecord]:
    found: dict[tuple[str, str, int | None], VerdictRecord] = {}
    for verdict in verdicts:
        key = (verdict.policy, verdict.part, verdict.choice)
        if key not in found or (verdict.score or 0.0) > (found[key].score or 0.0):
            found[key] = verdict
    return found


def _record_of(verdict: Verdict) -> VerdictRecord:
    made = VerdictRecord(
        verdict.policy_id,
        verdict.policy_version,
        verdict.policy_digest,
        verdict.threshold,
        verdict.action.word,
        verdict.mode.value,
        verdict.part,
        verdict.classifier,
    )
    return replace(made, score=verdict.score, error=verdict.error, choice=verdict.choice)
