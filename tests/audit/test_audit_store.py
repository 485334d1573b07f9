"""What goes in comes out again, and can be found."""

import hmac
import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from audit_cases import FAILED, SPANNED, TEXT_KEY, WATCHED, event, filled, record, verdict

from guardrail.audit.chain import Chains
from guardrail.audit.durations import LEAST_S, STEP, Durations
from guardrail.audit.keys import StoreKeys
from guardrail.audit.made import frame_of, record_of, text_hmac, texts_hmac
from guardrail.audit.row import Entry, _plainly, body_of, columns_of, record_of_row
from guardrail.audit.store import COUNTED, AuditReader, Filter
from guardrail.decision import decide
from guardrail.errors import GuardrailError
from guardrail.types import Action, Fallback, Mode, Part, Provenance, Verdict


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    origin = Provenance("t", "k", "m", "a", "bf16", 64, 0.01)
    elsewhere = verdict("violence", 0.1, part="tools[1].name", choice=1, provenance=origin)
    made = record(SPANNED, FAILED, WATCHED, elsewhere, history=("messages[0]: dropped",), unscannable=("messages[1].content[0]",))
    reader = AuditReader(filled(tmp_path / "audit.db", [made]))
    assert reader.get(made.id) == replace(made, sequence=1)
    assert reader.get("1") == replace(made, sequence=1)
    assert reader.get("unknown") is None


@pytest.mark.parametrize("text", ["", "Meet me at the library.", "é" * 3_000])
def test_hashes_of_texts_are_those_that_earlier_stores_hold(text: str) -> None:
    alone = hmac.digest(TEXT_KEY, b"text" + text.encode(), "sha256").hex()
    together = hmac.digest(TEXT_KEY, b"texts" + json.dumps([["p", 1, text], ["q", None, None]], separators=(",", ":")).encode(), "sha256")
    for _ in range(2):
        assert text_hmac(text, TEXT_KEY) == alone[:32]
        assert texts_hmac((Part("p", text, choice=1), Part("q", None)), TEXT_KEY) == f"hmac-sha256:{together.hex()}"


def test_verdicts_as_they_were_made_are_written_as_those_of_a_record() -> None:
    origin = Provenance("t", "k", "m", "a", "bf16", 64, 0.01)
    odd = verdict("calm", 0.1, part="x\n" * 300, criterion="c\x00", reading=("rot13",), provenance=origin)
    decided = event(SPANNED, FAILED, WATCHED, odd, verdict("calm", None, error="E\x07" * 100))
    whole = Entry(record_of(decided, TEXT_KEY, time=1.0))
    quick = Entry(frame_of(decided, TEXT_KEY, time=1.0), decided.decision.verdicts)
    assert (body_of(quick), columns_of(quick)) == (body_of(whole), columns_of(whole))


@pytest.mark.parametrize("score", [0, 1, 0.0, 1.0, 0.25, 1e-12, 0.123456789012345678, 1 / 3])
def test_verdicts_with_nothing_but_a_score_are_written_as_all_others(score: float) -> None:
    parts = tuple(Part(f"messages[{place}].content", "text", choice=choice) for place, choice in ((0, None), (1, None), (1, 0)))
    judged = [verdict(name, score, part=part.path, choice=part.choice) for part in parts for name in ("calm", "violence")]
    judged += [verdict("calm", 0.5, mode=Mode.SHADOW, part=parts[1].path, classifier="other@2"), verdict("late", 0.75, threshold=1)]
    decided = event(*judged, parts=parts)
    whole = Entry(record_of(decided, TEXT_KEY, time=1.0))
    quick = Entry(frame_of(decided, TEXT_KEY, time=1.0), decided.decision.verdicts)
    assert json.loads(body_of(quick)) == json.loads(body_of(whole))
    row = (1, *columns_of(quick), "", body_of(quick))
    assert record_of_row(row) == replace(whole.record, sequence=1)


@pytest.mark.parametrize(
    "odd",
    [
        verdict(score=float("nan")),
        verdict(score=1.5),
        verdict(part="elsewhere"),
        verdict(choice=3),
        verdict(flags=("odd",)),
        verdict(reading=("rot13",)),
        verdict(criterion="insults"),
        SPANNED,
        FAILED,
    ],
)
def test_verdicts_with_more_to_them_are_left_to_the_encoder(odd: Verdict) -> None:
    decided = event(verdict(), odd)
    assert _plainly(decided.decision.verdicts, frame_of(decided, TEXT_KEY, time=1.0).parts) is None
    assert _plainly((verdict(),), frame_of(decided, TEXT_KEY, time=1.0).parts) is not None


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        (Filter(), "54321"),
        (Filter(tenant="orbit"), "3"),
        (Filter(policy="toxicity"), "2"),
        (Filter(violated="harassment"), "4"),
        (Filter(policy="tox"), ""),
        (Filter(action="block"), "2"),
        (Filter(shadow="block"), "42"),
        (Filter(mode="shadow"), "4"),
        (Filter(unjudged=True), "5"),
        (Filter(since=2.0, until=4.0), "32"),
        (Filter(request_id="req-1", stage="input", route="default", tenant="acme"), "5421"),
        (Filter(tenant="' OR 1 --"), ""),
    ],
)
def test_records_are_found_by_what_they_say(tmp_path: Path, wanted: Filter, ids: str) -> None:
    made = [
        record(id="1", time=1.0),
        record(SPANNED, id="2", time=2.0),
        record(id="3", time=3.0, tenant="orbit"),
        record(WATCHED, id="4", time=4.0),
        record(FAILED, id="5", time=5.0),
    ]
    reader = AuditReader(filled(tmp_path / "audit.db", made))
    assert "".join(found.id for found in reader.find(wanted)) == ids
    assert [found.id for found in reader.find(wanted, limit=1)] == list(ids[:1])


def test_an_exact_text_is_found_by_its_keyed_hash(tmp_path: Path) -> None:
    path = filled(tmp_path / "audit.db", [record(id="1"), record(id="2", text="The tea is ready.")])
    reader = AuditReader(path, StoreKeys(Chains(), (b"some other key, as long as a key is", TEXT_KEY)))
    assert [found.id for found in reader.find(Filter(text="The tea is ready."))] == ["2"]
    assert reader.find(Filter(text="The tea is")) == []
    with pytest.raises(GuardrailError, match="not at hand"):
        AuditReader(path).find(Filter(text="The tea is ready."))


def test_pages_follow_one_another(tmp_path: Path) -> None:
    reader = AuditReader(filled(tmp_path / "audit.db", [record(id=f"d{number}") for number in range(1, 6)]))
    first = reader.find(limit=2)
    assert [found.sequence for found in first] == [5, 4]
    assert [found.sequence for found in reader.find(limit=2, before=first[-1].sequence)] == [3, 2]


def test_totals_count_each_step(tmp_path: Path) -> None:
    made = [record(id="1", time=10.0), record(SPANNED, WATCHED, id="2", time=11.0), record(FAILED, id="3", time=35.0)]
    first, second, third = AuditReader(filled(tmp_path / "audit.db", made)).totals(10.0, 40.0, 10.0)
    assert (first.start, first.decisions, first.actions, first.shadow) == (10.0, 2, {"pass": 1, "block": 1}, {"pass": 1, "block": 1})
    assert (first.policies, first.shadow_policies, first.tenants) == ({"toxicity": 1}, {"harassment": 1}, {"acme": 2})
    assert (second.decisions, second.percentile(0.5)) == (0, 0.0)
    assert (third.decisions, third.unjudged, third.percentile(0.99)) == (1, 1, 0.0125)


UNDECIDED = verdict("violence", None)
FLAGGED = verdict("toxicity", 0.7, action=Action.ANNOTATE)


@pytest.mark.parametrize("on_error", Fallback)
@pytest.mark.parametrize(
    "verdicts",
    [
        (UNDECIDED,),
        (UNDECIDED, WATCHED),
        (UNDECIDED, FLAGGED),
        (UNDECIDED, SPANNED),
        (WATCHED,),
        (SPANNED, WATCHED),
        (FLAGGED,),
        (verdict(),),
    ],
)
def test_totals_say_of_a_decision_what_its_record_says(tmp_path: Path, verdicts: tuple[Verdict, ...], on_error: Fallback) -> None:
    made = record(*verdicts, time=10.0, outcome=decide(verdicts, on_error=on_error))
    reader = AuditReader(filled(tmp_path / "audit.db", [made]))
    (total,) = reader.totals(10.0, 20.0, 10.0)
    (kept,) = reader.find()
    assert (total.words, total.tenant_words) == ({kept.word: 1}, {"acme": {kept.word: 1}})
    if kept.unavailable:
        assert kept.word == "unjudged"
    violated = {each.policy: each.mode for each in kept.violations}
    assert dict(total.policies) == {name: 1 for name, mode in violated.items() if mode == "enforce"}
    assert dict(total.shadow_policies) == {name: 1 for name, mode in violated.items() if mode == "shadow"}
    assert all(reader.find(Filter(violated=name)) == [kept] for name in violated)


def test_a_policy_that_is_enforced_and_watched_counts_as_enforced_once(tmp_path: Path) -> None:
    both = record(verdict("harassment", 0.9), WATCHED, time=10.0)
    (total,) = AuditReader(filled(tmp_path / "audit.db", [both])).totals(10.0, 20.0, 10.0)
    assert (total.policies, total.shadow_policies) == ({"harassment": 1}, {})


def test_totals_are_read_from_the_index_alone(tmp_path: Path) -> None:
    with AuditReader(filled(tmp_path / "audit.db", [record()])).connection() as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {COUNTED}", (0.0, 1.0, "decision")).fetchall()
    assert "COVERING INDEX records_by_time" in str(plan)


def test_totals_of_many_decisions_take_no_more_room_than_those_of_few(tmp_path: Path) -> None:
    """Each percentile lies within two per cent of the true one, as the classes do."""
    took = [0.00002 * 1.004**number for number in range(3_000)]
    path = filled(tmp_path / "audit.db", [replace(record(time=10.0), id=f"d{number}") for number in range(len(took))])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany("UPDATE records SET duration_s = ? WHERE place = ?", [(each, place) for place, each in enumerate(took, 1)])
    (total,) = AuditReader(path).totals(10.0, 20.0, 10.0)
    assert total.decisions == 3_000
    assert len(total.durations.classes) < 1_010
    for share in (0.0, 0.5, 0.95, 0.99, 1.0):
        exact = took[min(len(took) - 1, int(share * len(took)))]
        assert exact <= total.percentile(share) * (1 + 1e-9) <= exact * (STEP + 1e-6)
    assert total.percentile(1.0) == max(took)


def test_durations_beyond_every_class_are_the_longest_one() -> None:
    durations, more = Durations(), Durations()
    for each in (0.0, 7_200.0):
        durations.add(each)
    more.add(90_000.0)
    durations.take(more)
    assert (durations.count, durations.percentile(0.0), durations.percentile(1.0)) == (3, LEAST_S, 90_000.0)


def test_what_is_no_store_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(GuardrailError, match="there is no audit store"):
        AuditReader(tmp_path / "audit.db").find()
    (tmp_path / "text").write_text("not a database, but long enough to look like some file" * 100, encoding="utf-8")
    with pytest.raises(GuardrailError, match="cannot be read"):
        AuditReader(tmp_path / "text").find()
    (tmp_path / "empty").touch()
    with pytest.raises(GuardrailError, match="version 0"):
        AuditReader(tmp_path / "empty").find()
