"""A stored decision beside one that was made of the same text again: what is the same, and what is not."""

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

from guardrail.audit.made import text_hmac
from guardrail.audit.record import AuditRecord, VerdictRecord
from guardrail.decision import decide
from guardrail.errors import GuardrailError
from guardrail.types import Action, Decision, Mode, Part, Route, Stage, Verdict

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
        parts.append(Part(part.path, text, part.role, part.kind, part.choice, part.pieces))
    return tuple(parts)


def places(record: AuditRecord) -> str:
    """The parts that have a text, in order."""
    return ", ".join(part.path for part in record.parts if part.hmac)


def replayable(record: AuditRecord, route: Route) -> None:
    """Raises GuardrailError where more than the recorded texts was judged, or would be by this route, and that is not at hand."""
    if record.history:
        raise GuardrailError(f"decision {record.id} cannot be replayed: earlier turns were mended, and the mended texts are not kept")
    names = [check.policy.id for check in route.output if check.policy.judge_with == "prompt"]
    if record.stage == Stage.OUTPUT.value and names:
        raise GuardrailError(
            f"decision {record.id} cannot be replayed: {', '.join(dict.fromkeys(names))} judges answers with the prompt (judge_with), "
            "which is not kept beside them; other policies can be named with --policy"
        )


def narrowed(record: AuditRecord, policies: Collection[str], route: Route) -> AuditRecord:
    """The decision as it would have been by these policies' verdicts alone; what could not be judged counts as this route has it."""
    verdicts = tuple(verdict for verdict in record.verdicts if verdict.policy in policies)
    outcome = decide(
        [_verdict_of(verdict) for verdict in verdicts],
        unscannable=[Part(path, None) for path in record.unscannable],
        on_error=route.on_error,
        on_unscannable=route.unscannable,
        enforcing=any(verdict.mode == Mode.ENFORCE.value for verdict in verdicts),
    )
    return replace(record, verdicts=verdicts, action=outcome.action.word, shadow=outcome.shadow.word, unjudged=outcome.unjudged)


def compare(record: AuditRecord, decision: Decision, route: Route, *, alone: bool = False) -> Comparison:
    """What changed between a stored decision and one made again under `route`, each policy on each part.

    A verdict is compared with that of the same version and mode, else with that of the same mode, else with any of that policy there.
    `alone`: other versions than the one that was asked again are left out. Raises GuardrailError for a block that the route would have
    answered by mending earlier turns: what it would come to then cannot be told.
    """
    now = [_record_of(verdict) for verdict in decision.verdicts]
    mends = record.stage == Stage.INPUT.value and route.history != "block" and len(record.parts) > 1
    blocks = decision.action is Action.BLOCK and not decision.outcome.unavailable
    if mends and blocks and (record.action != decision.action.word or _blocking(record.verdicts) != _blocking(now)):
        raise GuardrailError(
            f"decision {record.id} cannot be replayed: it would be blocked now, and route {route.name!r} has history: {route.history}, "
            "which would mend earlier turns first"
        )
    pairs = _paired(record.verdicts, now)
    asked = {_place(after) for _, after in pairs if after is not None}
    changes = [
        _change(before, after)
        for before, after in pairs
        if not (alone and before is not None and after is None and _place(before) in asked)
    ]
    return Comparison(tuple(changes), (record.action, decision.action.word))


def _change(before: VerdictRecord | None, after: VerdictRecord | None) -> Change:
    either = before or after
    assert either is not None
    return Change(
        policy=either.policy,
        part=either.part,
        version=(before.version if before else "", after.version if after else ""),
        score=(before.score if before else None, after.score if after else None),
        threshold=(before.threshold if before else None, after.threshold if after else None),
        violation=(before is not None and before.violation, after is not None and after.violation),
    )


def _place(verdict: VerdictRecord) -> tuple[str, str, int | None]:
    return verdict.policy, verdict.part, verdict.choice


def _blocking(verdicts: Iterable[VerdictRecord]) -> set[tuple[str, str, int | None]]:
    wanted = Mode.ENFORCE.value, Action.BLOCK.word
    return {_place(verdict) for verdict in verdicts if verdict.violation and (verdict.mode, verdict.action) == wanted}


_ALIKE: tuple[Callable[[VerdictRecord], Hashable], ...] = (
    lambda verdict: (_place(verdict), verdict.mode, verdict.digest),
    lambda verdict: (_place(verdict), verdict.mode),
    _place,
)


def _paired(then: Iterable[VerdictRecord], now: Iterable[VerdictRecord]) -> list[tuple[VerdictRecord | None, VerdictRecord | None]]:
    """Each verdict with its partner, the most alike first: a version on trial is none for the one in force beside it."""
    before, after = _strongest(then), dict(enumerate(_strongest(now)))
    partners: dict[int, VerdictRecord] = {}
    for alike in _ALIKE:
        free: dict[Hashable, list[int]] = {}
        for number, verdict in after.items():
            free.setdefault(alike(verdict), []).append(number)
        for number, verdict in enumerate(before):
            if number not in partners and (left := free.get(alike(verdict))):
                partners[number] = after.pop(left.pop(0))
    pairs: list[tuple[VerdictRecord | None, VerdictRecord | None]] = [(each, partners.get(at)) for at, each in enumerate(before)]
    return [*pairs, *((None, verdict) for verdict in after.values())]


def _strongest(verdicts: Iterable[VerdictRecord]) -> list[VerdictRecord]:
    """One of each version and mode at each place: a joined text may have another one there."""
    found: dict[Hashable, VerdictRecord] = {}
    for verdict in verdicts:
        key = _ALIKE[0](verdict)
        if key not in found or _weight(verdict) > _weight(found[key]):
            found[key] = verdict
    return list(found.values())


def _weight(verdict: VerdictRecord) -> tuple[bool, bool, float]:
    return verdict.violation, verdict.error is not None, verdict.score or 0.0


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


def _verdict_of(record: VerdictRecord) -> Verdict:
    made = Verdict(
        record.policy,
        record.version,
        record.digest,
        record.threshold,
        record.part,
        record.classifier,
        score=record.score,
        error=record.error,
    )
    action = next(action for action in Action if action.word == record.action)
    return replace(made, choice=record.choice, action=action, mode=Mode(record.mode))
