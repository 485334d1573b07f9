"""Decisions and stores for the tests of the audit store. Mild text only."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from guardrail.audit.chain import Chains
from guardrail.audit.keys import StoreKeys
from guardrail.audit.ledger import Ledger, SegmentSize, connect
from guardrail.audit.made import record_of
from guardrail.audit.record import AuditRecord
from guardrail.events import DecisionMade
from guardrail.types import Action, Decision, Mode, Outcome, Part, Span, Stage, Verdict

KEY = b"a key of the tests, long enough to be one"
TEXT_KEY = b"another key of the tests, long enough too"
CONTENT_KEY = b"exactly thirty-two bytes it has."


def verdict(policy: str = "violence", score: float | None = 0.25, **changes: object) -> Verdict:
    made = Verdict(
        policy_id=policy,
        policy_version="1.0.0",
        policy_digest="sha256:" + "ab" * 32,
        threshold=0.5,
        part="messages[0].content",
        classifier="scripted@1",
        score=score,
        error=None if score is not None else "timeout",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def event(*verdicts: Verdict, text: str = "Meet me at the library.", **changes: object) -> DecisionMade:
    judged = verdicts or (verdict(),)
    blocked = any(each.violation and each.mode is Mode.ENFORCE for each in judged)
    shadowed = any(each.violation for each in judged)
    action = Action.BLOCK if blocked else Action.PASS
    outcome = Outcome(action, Action.BLOCK if shadowed else action, {}, any(each.error for each in judged), unavailable=False)
    decision = Decision(
        id="d1",
        stage=Stage.INPUT,
        outcome=outcome,
        verdicts=judged,
        unscannable=(),
        route="default",
        tenant="acme",
        generation=3,
        duration_s=0.0125,
    )
    decided = {name: value for name, value in changes.items() if name in Decision.__dataclass_fields__}
    rest = {name: value for name, value in changes.items() if name not in decided}
    parts = (Part("messages[0].content", text),)
    made = DecisionMade(replace(decision, **decided), "req-1", "small", "openai.chat", stream=False, parts=parts)  # type: ignore[arg-type]
    return replace(made, **rest)  # type: ignore[arg-type]


def record(*verdicts: Verdict, time: float = 1_000.0, **changes: object) -> AuditRecord:
    return record_of(event(*verdicts, **changes), TEXT_KEY, time=time, trace=("ab" * 16, "cd" * 8))  # type: ignore[arg-type]


KEYS = StoreKeys(Chains.of([KEY]), (TEXT_KEY,), (CONTENT_KEY,))
UNKEYED = StoreKeys(Chains(), (TEXT_KEY,))


def filled(path: Path, records: Sequence[AuditRecord], keys: StoreKeys = KEYS, size: SegmentSize | None = None) -> Path:
    ledger = Ledger(connect(path, synchronous="off"), keys, size)
    ledger.append(records)
    ledger.close()
    return path


SPANNED = verdict("toxicity", 0.9, span=Span(0, 4), criterion="insults", flags=("odd",))
FAILED = verdict("harassment", None)
WATCHED = verdict("harassment", 0.8, mode=Mode.SHADOW)


@contextmanager
def folder_gone(folder: Path) -> Iterator[None]:
    """For the length of a `with` nothing can be written into the folder: something else stands in its place."""
    aside = folder.with_name(f"{folder.name}-aside")
    folder.rename(aside)
    folder.touch()
    try:
        yield
    finally:
        folder.unlink()
        aside.rename(folder)
