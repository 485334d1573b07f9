"""A disguise that was undone is named in logs, spans and metrics; what it hid is in none of them."""

import logging

from guardrail.events import DecisionMade
from guardrail.questions import TRUNCATED
from guardrail.telemetry.log import AuditLog
from guardrail.types import Action, Part, Stage


def test_what_was_undone_is_named_everywhere(spans, meters, route, decided, verdict, caplog):
    decision = decided(verdict(reading=("base64", "rot13")), verdict("violence"), action=Action.BLOCK)
    event = DecisionMade(decision, "r-1", "gpt-4o", "chat", False, (Part("messages[0].content", "c2VjcmV0"),))
    with spans.tracing().guard(route, Stage.INPUT) as guard:
        guard.decided(decision)
    with caplog.at_level(logging.INFO, "guardrail.audit"):
        AuditLog().emit(event)
    meters.metrics.emit(event)
    assert [told["reading"] for told in caplog.records[0].fields["verdicts"]] == [("base64", "rot13"), ()]
    assert {each.attributes.get("guardrail.reading") for each in guard.span.events} == {"base64+rot13", None}
    counted = meters.points()["guardrail.violations"]
    assert {point.attributes.get("guardrail.reading") for point in counted} == {"base64+rot13", None}
    assert "c2VjcmV0" not in spans.dump() + meters.dump()


def test_decisions_over_readings_that_limits_cut_off_are_counted_once(meters, decided, verdict):
    for decision in (decided(verdict(flags=(TRUNCATED,)), verdict("violence", 0.1, flags=(TRUNCATED,))), decided(verdict())):
        meters.metrics.emit(DecisionMade(decision, "r-1", "gpt-4o", "chat", False, ()))
    (point,) = meters.points()["guardrail.readings.truncated"]
    assert point.value == 1


def test_disguises_invented_by_clients_cannot_make_series_without_end(meters, decided, verdict):
    for number in range(100):
        decision = decided(verdict(reading=("base64",) * (number + 1)), action=Action.BLOCK)
        meters.metrics.emit(DecisionMade(decision, "r-1", "gpt-4o", "chat", False, ()))
    assert len(meters.points()["guardrail.violations"]) <= 65
