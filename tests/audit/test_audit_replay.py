"""A decision made again is compared like with like, and what cannot be made again is said."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from audit_cases import KEYS, TEXT_KEY, event, filled

from guardrail.audit.made import record_of
from guardrail.audit.record import AuditRecord
from guardrail.audit.replay import Comparison, compare, narrowed, parts_of, replayable
from guardrail.audit.store import AuditReader
from guardrail.conversation import History, Speaker, scoped
from guardrail.errors import GuardrailError
from guardrail.events import DecisionMade
from guardrail.guard import Guard
from guardrail.testing import RecordingSink, ScriptedClassifier, contains, policy, route
from guardrail.types import Check, Decision, Fallback, Mode, Part, Route, Stage

A, B = policy("insults"), policy("weather")
NEWER = policy("insults", version="1.1.0", body="# Policy\n## Definition of Labels\n### (X): insults\n#### Includes\n- **x**: Other.\n")
TALK = (Part("messages[0].content", "You fool."), Part("messages[2].content", "Sorry. Hello."))


async def judged(parts: Sequence[Part], by: Route, stage: Stage = Stage.INPUT, **script: object) -> tuple[Decision, AuditRecord]:
    """A decision, and its record."""
    sink = RecordingSink()
    guard = Guard({"scripted": ScriptedClassifier(script or {"insults": contains("fool", score=0.9)})}, sink)  # type: ignore[arg-type]
    decision = await guard.check(parts, route=by, stage=stage)
    (event,) = sink.of(DecisionMade)
    return decision, record_of(event, TEXT_KEY, time=1.0)


def told(found: Comparison) -> list[tuple[str, tuple[str, str], bool]]:
    return [(change.policy, change.version, change.same) for change in found.changes]


async def test_a_version_on_trial_is_not_taken_for_the_one_in_force() -> None:
    trial = route(A, Check(NEWER, 0.5, mode=Mode.SHADOW))
    _, record = await judged(TALK[:1], trial, insults=lambda _: 0.9)
    hidden = replace(record, action="pass", verdicts=(replace(record.verdicts[0], score=0.2), record.verdicts[1]))
    ended = route(A)
    again, _ = await judged(TALK[:1], ended, insults=0.2)
    assert told(compare(hidden, again, ended)) == [("insults", ("1.0.0", "1.0.0"), True), ("insults", ("1.1.0", ""), False)]
    assert compare(hidden, again, ended, alone=True).same
    promoted, _ = await judged(TALK[:1], route(NEWER), insults=0.9)
    found = compare(hidden, promoted, route(NEWER), alone=True)
    assert [(change.version, change.violation) for change in found.changes] == [(("1.0.0", "1.1.0"), (False, True))]


async def test_a_policy_alone_is_compared_with_what_it_alone_came_to() -> None:
    both = route(A, B, on_error=Fallback.PASS)
    _, record = await judged(TALK[:1], both)
    again, _ = await judged(TALK[:1], route(B))
    assert record.action == "block"
    found = compare(narrowed(record, ["weather"], both), again, both, alone=True)
    assert (found.same, found.action) == (True, ("pass", "pass"))
    assert narrowed(record, ["insults"], both).action == "block"
    _, failed = await judged(TALK[:1], both, weather=RuntimeError("down"))
    alone = {on_error: narrowed(failed, ["weather"], replace(both, on_error=on_error)).action for on_error in Fallback}
    assert alone == {Fallback.PASS: "pass", Fallback.BLOCK: "block"}


async def test_what_was_judged_with_more_than_its_text_is_not_replayed() -> None:
    asks = route(A, policy("context", judge_with="prompt"))
    _, answer = await judged(TALK[:1], route(A), Stage.OUTPUT)
    with pytest.raises(GuardrailError, match="context judges answers with the prompt"):
        replayable(answer, asks)
    replayable(answer, route(A))
    replayable(replace(answer, stage="input"), asks)
    with pytest.raises(GuardrailError, match="earlier turns were mended"):
        replayable(replace(answer, history=("drop messages[0]",)), route(A))


async def test_a_block_that_mending_may_undo_is_not_told_as_one() -> None:
    mends = route(A, history="drop")
    again, blocked = await judged(TALK, mends)
    assert compare(blocked, again, mends).same  # it was not mended then, for the same reasons
    _, passed = await judged(TALK, mends, insults=0.1)
    with pytest.raises(GuardrailError, match="would mend earlier turns"):
        compare(passed, again, mends)
    assert compare(passed, again, route(A)).action == ("pass", "block")


def test_texts_that_are_given_are_joined_as_they_were(tmp_path: Path) -> None:
    parts = scoped(TALK, History("messages", (Speaker.USER, Speaker.ASSISTANT, Speaker.USER)), "all")
    assert parts[-1].pieces
    from_event = record_of(replace(event(), parts=parts), TEXT_KEY, time=1.0)
    (record,) = AuditReader(filled(tmp_path / "audit.db", [from_event]), KEYS).find()
    assert record.parts == from_event.parts
    assert parts_of(record, [part.text or "" for part in parts], [TEXT_KEY]) == parts
