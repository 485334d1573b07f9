"""How the spans of an exchange hang together and what sets them to failed."""

import asyncio
import contextvars

import pytest
from opentelemetry.trace import NoOpTracerProvider, SpanKind, StatusCode, format_trace_id

from guardrail.errors import UpstreamError
from guardrail.telemetry.tracing import Target, Tracing
from guardrail.telemetry.upstream_span import parse_server
from guardrail.types import Action, Mode, Stage

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
UNSAMPLED = f"00-{TRACE}-b7ad6b7169203331-00"


def trace_of(span):
    return format_trace_id(span.context.trace_id)


def test_one_exchange_is_one_tree_with_the_right_kinds(spans, route, decided):
    tracing = spans.tracing()
    with tracing.request([], "POST", "/v1/chat/completions") as request:
        request.routed(route, "acme")
        with tracing.guard(route, Stage.INPUT) as guard:
            guard.decided(decided())
        with tracing.upstream(Target("gpt-4o", "openai")) as upstream:
            upstream.answered(200)
        request.answered(200)
    root = spans.one("POST /v1/chat/completions")
    children = [spans.one("apply_guardrail embedded"), spans.one("chat gpt-4o")]
    assert [root.kind, *(child.kind for child in children)] == [SpanKind.SERVER, SpanKind.INTERNAL, SpanKind.CLIENT]
    assert {child.parent.span_id for child in children} == {root.context.span_id}
    assert {span.status.status_code for span in spans.all} == {StatusCode.UNSET}


def test_the_callers_trace_goes_in_and_out_again_replacing_what_the_client_sent(spans):
    tracing = spans.tracing()
    with tracing.request([(b"Traceparent", PARENT.encode()), (b"tracestate", b"a=1")], "POST", "/x"):
        with tracing.upstream(Target("m", "openai")) as upstream:
            headers = upstream.inject({"TraceParent": PARENT, "Accept": "*/*"})
    sent = spans.one("chat m")
    assert headers == {"Accept": "*/*", "traceparent": f"00-{TRACE}-{sent.context.span_id:016x}-01", "tracestate": "a=1"}
    assert spans.one("POST").parent.span_id == 0xB7AD6B7169203331


def test_the_callers_trace_passes_through_when_nothing_is_exported():
    tracing = Tracing(NoOpTracerProvider())
    with tracing.request([(b"traceparent", PARENT.encode())], "POST", "/x"):
        with tracing.upstream(Target("m", "openai")) as upstream:
            assert upstream.inject({}) == {"traceparent": PARENT}


@pytest.mark.parametrize(
    "headers",
    [
        [(b"traceparent", b"nonsense")],
        [(b"traceparent", PARENT.encode()), (b"traceparent", PARENT.encode())],
        [(b"traceparent", PARENT.encode() + b"0" * 5000)],
        [(b"traceparent", b"\xff\xfe")],
    ],
)
def test_a_malformed_or_doubled_trace_header_starts_a_new_trace(spans, headers):
    with spans.tracing().request(headers, "POST", "/x"):
        pass
    assert spans.one("POST").parent is None
    assert trace_of(spans.one("POST")) != TRACE


def test_an_untrusted_caller_cannot_switch_tracing_off_and_is_linked(spans):
    with spans.tracing().request([(b"traceparent", UNSAMPLED.encode())], "POST", "/x"):
        pass
    assert spans.all == ()
    with spans.tracing(trust_parent=False).request([(b"traceparent", UNSAMPLED.encode())], "POST", "/x"):
        pass
    span = spans.one("POST")
    assert trace_of(span) != TRACE
    assert [format_trace_id(link.context.trace_id) for link in span.links] == [TRACE]


def test_inside_an_app_that_traces_already_the_request_is_a_child_of_its_span(spans):
    with spans.provider.get_tracer("app").start_as_current_span("app", kind=SpanKind.SERVER) as outer:
        with spans.tracing().request([(b"traceparent", PARENT.encode())], "POST", "/x"):
            pass
    inner = spans.one("POST")
    assert inner.kind is SpanKind.INTERNAL
    assert inner.parent.span_id == outer.get_span_context().span_id


@pytest.mark.parametrize(("status", "code", "expected"), [(200, None, None), (400, "content_filter", None), (502, None, "502")])
def test_only_a_server_fault_fails_the_request_span(spans, status, code, expected):
    with spans.tracing().request([], "POST", "/x") as request:
        request.answered(status, code)
    span = spans.one("POST")
    assert span.attributes.get("error.type") == expected
    assert span.status.status_code is (StatusCode.ERROR if expected else StatusCode.UNSET)
    assert span.attributes.get("guardrail.code") == code


def test_an_invented_method_is_not_a_span_name(spans):
    with spans.tracing().request([], "BREW", "/x?token=1"):
        pass
    span = spans.one("HTTP")
    assert (span.attributes["http.request.method"], span.attributes["url.path"]) == ("_OTHER", "/x")


def test_only_policies_that_fired_or_erred_become_events_unless_debugging(spans, route, decided, verdict):
    decision = decided(
        verdict("calm", 0.1),
        verdict("harassment", 0.6, part="messages[0].content"),
        verdict("harassment", 0.8, part="messages[1].content", mode=Mode.SHADOW),
        verdict("harassment", None, error="timeout"),
        verdict("violence", None, error="timeout"),
        action=Action.BLOCK,
        unjudged=True,
    )
    for debug in (False, True):
        with spans.tracing(debug=debug).guard(route, Stage.OUTPUT) as guard:
            guard.decided(decision)
    quiet, verbose = (
        [
            (e.attributes["guardrail.policy.id"], e.attributes.get("guardrail.score"))
            for e in span.events
            if e.name == "gen_ai.guardrail.result"
        ]
        for span in spans.all
    )
    assert quiet == [("harassment", 0.8), ("harassment", 0.6), ("harassment", None), ("violence", None)]
    assert verbose == [("harassment", 0.8), ("harassment", 0.6), ("calm", 0.1), ("harassment", None), ("violence", None)]
    assert "gen_ai.guardrail.result.value" not in spans.all[0].events[2].attributes


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("pass", "pass", "enforce")),
        ({"action": Action.BLOCK}, ("block", "block", "enforce")),
        ({"shadow": Action.BLOCK}, ("block", "pass", "shadow")),
        ({"action": Action.ANNOTATE, "shadow": Action.BLOCK}, ("block", "annotate", "shadow")),
        ({"unjudged": True}, ("unjudged", "pass", "enforce")),
        ({"unjudged": True, "unavailable": True, "action": Action.BLOCK}, ("unjudged", "block", "enforce")),
        ({"unjudged": True, "action": Action.BLOCK}, ("block", "block", "enforce")),
    ],
)
def test_a_failure_is_never_worded_as_a_pass_or_a_block_by_policy(spans, route, decided, changes, expected):
    with spans.tracing().guard(route, Stage.INPUT) as guard:
        guard.decided(decided(**changes))
    attributes = spans.one("apply_guardrail embedded").attributes
    assert tuple(attributes[f"guardrail.{name}"] for name in ("decision", "enforced", "mode")) == expected


def test_an_error_that_is_a_sentence_is_recorded_as_other(spans, route, decided, verdict):
    with spans.tracing().guard(route, Stage.INPUT) as guard:
        guard.decided(decided(verdict(score=None, error="could not parse: hello"), unjudged=True))
    span = spans.one("apply_guardrail embedded")
    assert span.attributes["error.type"] == "other"
    assert span.events[0].attributes["error.type"] == "other"


async def test_a_cancelled_call_says_cancelled_and_still_ends(spans):
    tracing = spans.tracing()

    async def call():
        with tracing.upstream(Target("m", "openai")):
            await asyncio.sleep(60)

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert spans.one("chat m").attributes["error.type"] == "cancelled"


def test_an_upstream_error_is_its_code_and_ends_up_in_the_call(spans):
    upstream = spans.tracing().upstream(Target("m", "openai", "localhost:9"))
    with pytest.raises(RuntimeError, match="not over"):
        _ = upstream.call
    with pytest.raises(UpstreamError), upstream:
        raise UpstreamError("disconnect", "broke off")
    assert upstream.call.error == spans.one("chat m").attributes["error.type"] == "disconnect"
    assert upstream.call.server == ("localhost", 9)


def test_an_upstream_span_may_be_left_in_another_context_than_it_was_entered_in(spans, caplog):
    upstream = spans.tracing().upstream(Target("m", "openai"))
    contextvars.copy_context().run(upstream.__enter__)
    upstream.__exit__(None, None, None)
    assert spans.one("chat m").end_time is not None
    assert caplog.text == ""


@pytest.mark.parametrize("value", ["9" * 300, True, None, "0.5", [1]])
def test_a_request_parameter_that_is_not_a_number_is_left_out(spans, value):
    with spans.tracing().upstream(Target("m", "openai", body={"temperature": value, "seed": value, "n": value})):
        pass
    assert set(spans.one("chat m").attributes) == {"gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("https://user:pw@api.example.com/v1?key=k", ("api.example.com", 443)),
        ("http://[::1]:8000", ("::1", 8000)),
        ("host:81", ("host", 81)),
        ("host", ("host", None)),
        ("http://host:port", None),
        ("", None),
        (None, None),
    ],
)
def test_only_host_and_port_of_a_server_are_kept(given, expected):
    assert parse_server(given) == expected
