"""A secret that is planted in every place that content and keys pass through must not come out, unless capture was asked for."""

import io
import json
import logging
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrail.events import DecisionMade
from guardrail.telemetry.capture import CONTENT_LIMIT, Capture, cut, messages_json, parse_capture
from guardrail.telemetry.log import AuditLog
from guardrail.telemetry.log_format import JsonFormatter
from guardrail.telemetry.names import Semconv
from guardrail.telemetry.tracing import Target
from guardrail.types import Action, Part, Stage

SECRET = "canary-7f3a"
HEADERS = [
    (b"authorization", f"Bearer key-{SECRET}".encode()),
    (b"x-api-key", f"key-{SECRET}".encode()),
    (b"cookie", f"session={SECRET}".encode()),
    (b"baggage", f"user={SECRET}".encode()),
]
PARTS = (Part("messages[0].content", f"please remember {SECRET}"), Part("messages[1].content", f"other {SECRET}", role="assistant"))
BODY = {"messages": [{"role": "user", "content": SECRET}], "stop": [SECRET], "user": SECRET, "temperature": SECRET, "seed": SECRET}


def exchange(spans, meters, route, decided, verdict, **options):
    """A whole exchange with the secret everywhere; returns what was logged."""
    tracing = spans.tracing(debug=True, **options)
    stream = io.StringIO()
    logger = logging.getLogger("audit-under-test")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    with suppress(ValueError), tracing.request(HEADERS, "POST", f"/v1/chat/completions?key={SECRET}") as request:
        request.routed(route, "acme", "r-1")
        for stage in Stage:
            with tracing.guard(route, stage) as guard:
                fired, erred = verdict(), verdict("violence", None, error=f"malformed answer: {SECRET}")
                decision = decided(fired, erred, stage=stage, action=Action.BLOCK, unjudged=True)
                guard.decided(decision, PARTS)
                event = DecisionMade(decision, "r-1", "gpt-4o", "chat", False, PARTS)
                AuditLog(logger).emit(event)
                meters.metrics.emit(event)
        target = Target("gpt-4o", "openai", f"https://user:{SECRET}@api.example.com/{SECRET}?key={SECRET}", body=BODY)
        with tracing.upstream(target) as upstream:
            headers = upstream.inject({"Authorization": f"Bearer {SECRET}"})
            assert headers["Authorization"] == f"Bearer {SECRET}"
            assert set(headers) == {"Authorization", "traceparent"}
            upstream.answered(200, {"prompt_tokens": 3, "note": SECRET}, ["stop"])
        meters.metrics.upstream(upstream.call)
        logger.error("broke off", exc_info=ValueError(SECRET))
        raise ValueError(SECRET)
    return stream.getvalue()


@pytest.mark.parametrize("semconv", list(Semconv))
def test_with_capture_off_the_secret_is_in_no_span_metric_or_log_line(spans, meters, route, decided, verdict, semconv):
    logged = exchange(spans, meters, route, decided, verdict, semconv=semconv)
    assert len(spans.all) == 4
    assert logged.count("\n") == 3
    assert "guardrail.violations" in meters.dump()
    for place in (spans.dump(), meters.dump(), logged):
        assert SECRET not in place


@pytest.mark.parametrize(
    ("capture", "span_names", "event_names"),
    [
        (Capture.SPAN, {"gen_ai.input.messages", "gen_ai.output.messages"}, set()),
        (Capture.EVENT, set(), {"gen_ai.guardrail.content.input.value", "gen_ai.guardrail.content.output.value"}),
        (
            Capture.BOTH,
            {"gen_ai.input.messages", "gen_ai.output.messages"},
            {"gen_ai.guardrail.content.input.value", "gen_ai.guardrail.content.output.value"},
        ),
    ],
)
def test_with_capture_on_the_secret_is_only_where_it_was_asked_for(
    spans, meters, route, decided, verdict, capture, span_names, event_names
):
    logged = exchange(spans, meters, route, decided, verdict, capture=capture)
    on_spans = {name for span in spans.all for name, value in span.attributes.items() if SECRET in str(value)}
    on_events = {name for span in spans.all for event in span.events for name, value in event.attributes.items() if SECRET in str(value)}
    assert (on_spans, on_events) == (span_names, event_names)
    assert SECRET not in logged + meters.dump()


def test_a_part_that_did_not_fire_is_not_captured_on_the_event(spans, meters, route, decided, verdict):
    with spans.tracing(capture=Capture.EVENT).guard(route, Stage.INPUT) as guard:
        guard.decided(decided(verdict(part="messages[1].content"), action=Action.BLOCK), PARTS)
    (event,) = spans.one("apply_guardrail embedded").events
    assert event.attributes["gen_ai.guardrail.content.input.value"] == f"other {SECRET}"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("span_only", Capture.SPAN),
        ("EVENT_ONLY", Capture.EVENT),
        (" span_and_event ", Capture.BOTH),
        ("true", Capture.BOTH),
        ("True", Capture.BOTH),
        ("false", Capture.OFF),
        ("no_content", Capture.OFF),
        ("", Capture.OFF),
        (None, Capture.OFF),
        ("spanonly", Capture.OFF),
        ("1", Capture.OFF),
    ],
)
def test_only_the_exact_words_switch_capture_on(value, expected):
    assert parse_capture(value) is expected


@given(st.lists(st.text(max_size=40_000), max_size=4))
def test_captured_content_is_bounded(texts):
    parts = [Part(f"messages[{index}].content", text) for index, text in enumerate(texts)]
    messages = json.loads(messages_json(parts))
    assert sum(len(message["parts"][0]["content"]) for message in messages) <= CONTENT_LIMIT + 20
    assert all(len(cut(text)) <= CONTENT_LIMIT + 20 for text in texts)


def test_the_number_of_captured_parts_is_bounded_and_one_without_text_is_named_by_its_kind():
    messages = json.loads(messages_json([Part("messages[0].content[0]", None, kind="image")] * 10_000))
    assert len(messages) == 256
    assert messages[0] == {"role": "user", "parts": [{"type": "image"}]}
