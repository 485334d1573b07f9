"""The audit log: one typed JSON line an event."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from guardrail.errors import Finding
from guardrail.events import (
    AuditTroubled,
    CanaryChecked,
    DecisionMade,
    EventFanout,
    PoliciesPublished,
    PoliciesRefused,
    RequestRefused,
    UpstreamFailed,
)
from guardrail.telemetry.log import AuditLog
from guardrail.telemetry.log_format import configure_logging
from guardrail.types import Action, Mode, Part, Provenance, Stage


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logger = logging.getLogger("guardrail")
    before = logger.level, logger.propagate
    handler = configure_logging(stream)
    yield stream
    logger.removeHandler(handler)
    logger.level, logger.propagate = before
    logging.getLogger("guardrail.audit").setLevel(logging.NOTSET)


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_what_replaying_a_score_needs_is_in_the_line_and_the_span(stream, spans, route, decided, verdict):
    provenance = Provenance("A", "sha256:01", "sha256:02", "sha256:03", "bfloat16", 256, 0.001)
    decision = decided(verdict(flags=("header_lookalike",), provenance=provenance), action=Action.BLOCK)
    with spans.tracing().guard(route, Stage.INPUT) as guard:
        guard.decided(decision)
        AuditLog().emit(DecisionMade(decision, "r-1", "gpt-4o", "chat", True, ()))
    (told,) = lines(stream)[0]["verdicts"]
    assert told["flags"] == ["header_lookalike"]
    assert told["provenance"] == {
        "template": "A", "tokenizer": "sha256:01", "model": "sha256:02", "adapter": "sha256:03", "dtype": "bfloat16",
        "bucket": 256, "outside": 0.001,
    }  # fmt: skip
    (event,) = guard.span.events
    assert event.attributes["guardrail.flags"] == ("header_lookalike",)
    assert event.attributes["guardrail.classifier.bucket"] == 256


def test_a_decision_is_one_line_with_exactly_these_fields(stream, spans, route, decided, verdict):
    decision = decided(
        verdict("calm", 0.1),
        verdict("violence", None, error="timeout", mode=Mode.SHADOW),
        verdict(criterion="Insult", action=Action.REDACT),
        action=Action.REDACT,
        unjudged=True,
        unscannable=("messages[1].content[0]",),
        id="d-1",
    )
    with spans.tracing().guard(route, Stage.INPUT) as guard:
        AuditLog().emit(DecisionMade(decision, "r-1", "gpt-4o", "chat", True, (Part("messages[0].content", "hello"),)))
        context = guard.span.get_span_context()
    (line,) = lines(stream)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "INFO",
        "logger": "guardrail.audit",
        "event": "decision",
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
        "decision_id": "d-1",
        "request_id": "r-1",
        "stage": "input",
        "decision": "redact",
        "enforced": "redact",
        "mode": "enforce",
        "action": "redact",
        "shadow_action": "pass",
        "unjudged": True,
        "unavailable": False,
        "route": "chat",
        "tenant": "acme",
        "generation": 7,
        "protocol": "chat",
        "stream": True,
        "duration_ms": 4.0,
        "parts": 1,
        "characters": 5,
        "unscannable": ["messages[1].content[0]"],
        "history": [],
        "violations": 1,
        "errors": 1,
        "verdict_count": 3,
        "verdicts": [
            {
                "policy": policy,
                "version": "1.2.0",
                "digest": "sha256:aa",
                "part": "messages[0].content",
                "choice": None,
                "score": score,
                "threshold": 0.5,
                "violation": policy == "harassment",
                "error": error,
                "action": action,
                "mode": mode,
                "criterion": criterion,
                "classifier": "embedded@sha256:bb",
                "flags": [],
                "reading": [],
                "provenance": None,
            }
            for policy, score, error, action, mode, criterion in (
                ("harassment", 0.9, None, "redact", "enforce", "Insult"),
                ("violence", None, "timeout", "block", "shadow", None),
                ("calm", 0.1, None, "block", "enforce", None),
            )
        ],
    }


def test_a_long_decision_keeps_what_matters_and_says_how_much_there_was(stream, decided, verdict):
    calm = [verdict("calm", 0.1, part=f"messages[{index}].content") for index in range(500)]
    AuditLog().emit(DecisionMade(decided(*calm, verdict(), action=Action.BLOCK), "r", "m", "chat", False, ()))
    (line,) = lines(stream)
    assert (line["verdict_count"], len(line["verdicts"]), line["verdicts"][0]["policy"]) == (501, 64, "harassment")


def test_equally_telling_verdicts_stay_in_their_order(stream, decided, verdict):
    many = [verdict(str(index), (0.1, 0.9, 0.1)[index % 3], part=f"messages[{index}].content") for index in range(300)]
    AuditLog().emit(DecisionMade(decided(*many, action=Action.BLOCK), "r", "m", "chat", False, ()))
    (line,) = lines(stream)
    assert [shown["policy"] for shown in line["verdicts"]] == [str(index) for index in range(1, 192, 3)]
    assert (line["violations"], line["errors"]) == (100, 0)


def test_a_line_that_is_not_wanted_costs_nothing(stream, decided):
    class Untouched(tuple):
        def __iter__(self):
            raise AssertionError("looked at")

    logging.getLogger("guardrail.audit").setLevel(logging.CRITICAL)
    AuditLog().emit(DecisionMade(decided(), "r", "m", "chat", False, Untouched()))
    logging.getLogger("guardrail.audit").setLevel(logging.INFO)
    with pytest.raises(AssertionError, match="looked at"):
        AuditLog().emit(DecisionMade(decided(), "r", "m", "chat", False, Untouched()))


def test_every_other_event_is_one_line_at_its_level(stream):
    for event in (
        RequestRefused(404, "unknown_path", "r-1", "acme", "/v1/x?key=1"),
        UpstreamFailed("connect", "main", "r-1", "chat"),
        CanaryChecked("embedded", True, ""),
        CanaryChecked("embedded", False, "scored 0.1"),
        PoliciesPublished(3, 8),
        PoliciesRefused(3, (Finding("hate.md", 12, "P031", "quotes the document"),)),
        AuditTroubled("queue_full", 7),
        AuditTroubled("recovered", 0),
    ):
        AuditLog().emit(event)
    written = lines(stream)
    for line in written:
        line.pop("time")
        assert line.pop("logger") == "guardrail.audit"
    assert written == [
        {
            "level": "WARNING",
            "event": "request_refused",
            "status": 404,
            "code": "unknown_path",
            "request_id": "r-1",
            "tenant": "acme",
            "path": "/v1/x",
            "limit": "",
        },
        {"level": "WARNING", "event": "upstream_failed", "code": "connect", "upstream": "main", "request_id": "r-1", "route": "chat"},
        {"level": "INFO", "event": "canary_checked", "classifier": "embedded", "ok": True, "detail": ""},
        {"level": "ERROR", "event": "canary_checked", "classifier": "embedded", "ok": False, "detail": "scored 0.1"},
        {"level": "INFO", "event": "policies_published", "generation": 3, "policies": 8},
        {"level": "ERROR", "event": "policies_refused", "generation": 3, "finding_count": 1, "findings": ["hate.md:12: P031"]},
        {"level": "ERROR", "event": "audit_troubled", "code": "queue_full", "records": 7, "detail": ""},
        {"level": "INFO", "event": "audit_troubled", "code": "recovered", "records": 0, "detail": ""},
    ]


def test_a_quieter_log_does_not_silence_the_audit(stream, decided):
    again = configure_logging(stream, "error")
    logging.getLogger("guardrail.upstream").warning("not wanted")
    AuditLog().emit(DecisionMade(decided(), "r", "m", "chat", False, ()))
    assert [line["event"] for line in lines(stream)] == ["decision"]
    logging.getLogger("guardrail").removeHandler(again)


def test_an_unknown_level_is_refused(stream):
    with pytest.raises(ValueError, match="LOUD"):
        configure_logging(stream, "loud")


def test_line_breaks_and_odd_values_stay_on_one_line(stream):
    logging.getLogger("guardrail").info("two\nlines", extra={"fields": {"odd": object(), "level": "forged"}})
    (line,) = lines(stream)
    assert (line["event"], line["odd"], line["level"]) == ("two\nlines", "<object>", "INFO")


def test_an_exception_is_logged_by_class_and_place_and_never_by_its_message(stream):
    class Broken:
        def emit(self, event):
            try:
                raise KeyError("my secret prompt")
            except KeyError as error:
                raise ValueError("it said: my secret prompt") from error

    fanout = EventFanout([Broken()])
    fanout.emit(PoliciesPublished(1, 1))
    (line,) = lines(stream)
    assert line["exception"] == ["ValueError", "KeyError"]
    assert any(frame.startswith("test_telemetry_log.py:") and frame.endswith("Broken.emit") for frame in line["frames"])
    assert "secret" not in stream.getvalue()
