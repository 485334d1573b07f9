"""What leaves the running proxy by OTLP and for Prometheus: read back, with a secret in every place that could leak."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from asgi_cases import CHAT, EVENTS, Answering, completion, config, stream
from otlp_receiver import Receiver, attributes, receiving

from guardrail.assembly import Siblings, build_app
from guardrail.config.tenants import hash_key
from guardrail.testing import ScriptedClassifier, contains
from guardrail.upstream.in_process import InProcessUpstream

SECRET = "canary-5d1e7f"
KEY = f"key-{SECRET}"
CALLER = "0af7651916cd43dd8448eb211c80319c"
HEADERS = {
    "authorization": f"Bearer {KEY}",
    "cookie": f"session={SECRET}",
    "baggage": f"user={SECRET}",
    "x-secret": SECRET,
    "traceparent": f"00-{CALLER}-b7ad6b7169203331-01",
    "tracestate": f"vendor={SECRET}",
}
CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


@asynccontextmanager
async def exporting(upstream: Answering, **route: Any) -> AsyncIterator[httpx.AsyncClient]:
    """The proxy as `guardrail serve` makes it; what it has measured is sent when it ends."""
    settings = config(
        route,
        telemetry={"service_name": "edge", "debug": True, "prometheus": {"enabled": True}},
        tenants={"acme": {"api_keys": [hash_key(KEY)]}},
    )
    classifier = ScriptedClassifier({"*": contains("forbidden")})
    app = build_app(
        settings, classifiers={"embedded": classifier}, upstreams={"embedded": InProcessUpstream(upstream)}, among=Siblings(place=2)
    )
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 9))
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
        yield client


async def ask(client: httpx.AsyncClient, text: str, **body: Any) -> httpx.Response:
    asked = {"model": "m", "user": SECRET, "stop": [SECRET], "messages": [{"role": "user", "content": text}], **body}
    return await client.post(f"{CHAT}?key={SECRET}", json=asked, headers=HEADERS)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Any:
    with receiving() as server:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield server


async def whole(client: httpx.AsyncClient, upstream: Answering) -> list[httpx.Response]:
    """One request of each outcome; the answers."""
    said = [await ask(client, f"please remember {SECRET}"), await ask(client, f"forbidden {SECRET}")]
    upstream.pieces = [completion(f"forbidden {SECRET}")]
    said.append(await ask(client, "hello"))
    upstream.pieces = [json.dumps({"error": {"message": SECRET}}).encode()]
    upstream.status = 500
    said.append(await ask(client, "hello"))
    upstream.status, upstream.error = 200, RuntimeError(SECRET)
    said.append(await ask(client, "hello"))
    said.append(await client.post(CHAT, content=f'{{"{SECRET}": '.encode(), headers=HEADERS))
    said.append(await client.post(CHAT, json={"model": SECRET * 100, "messages": []}, headers={"authorization": f"Bearer {SECRET}"}))
    said.append(await client.get(f"/v1/{SECRET}", headers=HEADERS))
    return said


async def test_with_capture_off_no_secret_leaves_in_spans_metrics_exemplars_logs_errors_or_the_metrics_page(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(CAPTURE, raising=False)
    caplog.set_level("INFO", "guardrail.audit")
    upstream = Answering([completion("fine", usage={"prompt_tokens": 3, "completion_tokens": 4, "note": SECRET})])
    async with exporting(upstream) as client:
        answers = await whole(client, upstream)
        page = await client.get("/metrics")
    assert [answer.status_code for answer in answers] == [200, 400, 200, 500, 502, 400, 401, 404]
    assert len(receiver.spans) > 10
    assert page.status_code == 200
    exported = receiver.everything
    # The path of a request is the caller's own and stands in `url.path`; everything else must be clean.
    paths = {attributes(span.attributes).get("url.path", "") for span in receiver.spans}
    assert {path for path in paths if SECRET in path} <= {f"/v1/{SECRET}"}
    assert exported.replace(f"/v1/{SECRET}".encode(), b"").count(SECRET.encode()) == 0
    assert SECRET not in page.text
    assert SECRET not in "".join(answer.text for answer in answers[1:])
    fields = [json.dumps(getattr(record, "fields", {}), default=str) for record in caplog.records]
    told = "".join([*fields, *(record.getMessage() for record in caplog.records)])
    assert "harassment" in told
    assert told.replace(f"/v1/{SECRET}", "").count(SECRET) == 0


@pytest.mark.parametrize(
    ("capture", "on_spans", "on_events"), [("span_only", True, False), ("event_only", False, True), ("span_and_event", True, True)]
)
async def test_with_capture_on_texts_leave_only_where_the_switch_says_and_keys_never(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, capture: str, on_spans: bool, on_events: bool
) -> None:
    monkeypatch.setenv(CAPTURE, capture)
    async with exporting(Answering([completion("fine")])) as client:
        await ask(client, f"forbidden {SECRET}")
        page = await client.get("/metrics")
    names = {name for span in receiver.spans for name, value in attributes(span.attributes).items() if SECRET in str(value)}
    events = {
        name
        for span in receiver.spans
        for event in span.events
        for name, value in attributes(event.attributes).items()
        if SECRET in str(value)
    }
    assert names == ({"gen_ai.input.messages"} if on_spans else set())
    assert events == ({"gen_ai.guardrail.content.input.value"} if on_events else set())
    assert KEY.encode() not in receiver.everything
    assert SECRET not in page.text + str(receiver.metrics)


async def test_the_wire_has_one_trace_a_request_its_events_and_who_sent_it(receiver: Receiver) -> None:
    async with exporting(Answering([completion("fine", usage={"prompt_tokens": 3, "completion_tokens": 4})])) as client:
        await ask(client, "hello")
        await ask(client, "forbidden")
    traces: dict[bytes, dict[str, Any]] = {}
    for span in receiver.spans:
        traces.setdefault(span.trace_id, {}).setdefault(span.name, []).append(span)
    passed, blocked = sorted(traces.values(), key=len, reverse=True)
    root = passed[f"POST {CHAT}"][0]
    assert {name: len(spans) for name, spans in passed.items()} == {f"POST {CHAT}": 1, "apply_guardrail embedded": 2, "chat m": 1}
    assert {name: len(spans) for name, spans in blocked.items()} == {f"POST {CHAT}": 1, "apply_guardrail embedded": 1}
    assert root.parent_span_id == b""
    assert {span.parent_span_id for name in ("apply_guardrail embedded", "chat m") for span in passed[name]} == {root.span_id}
    assert [link.trace_id.hex() for link in root.links] == [CALLER]
    assert root.kind == root.SPAN_KIND_SERVER
    (event,) = blocked["apply_guardrail embedded"][0].events
    told = attributes(event.attributes)
    assert (event.name, told["gen_ai.guardrail.risk.category"], told["guardrail.action"]) == (
        "gen_ai.guardrail.result",
        "harassment",
        "block",
    )
    assert attributes(blocked[f"POST {CHAT}"][0].attributes)["guardrail.sampling.keep"] is True
    assert "guardrail.sampling.keep" not in attributes(root.attributes)
    for resource in receiver.resources:
        assert (resource["service.name"], resource["guardrail.worker"]) == ("edge", 2)
        assert resource["service.instance.id"]


async def test_the_wire_has_metrics_whose_exemplars_lead_to_the_spans(receiver: Receiver) -> None:
    async with exporting(Answering([completion("fine", usage={"prompt_tokens": 3, "completion_tokens": 4})])) as client:
        await ask(client, "hello")
        await ask(client, "forbidden")
    metrics, spans = receiver.metrics, {span.span_id: span for span in receiver.spans}
    requests = metrics["guardrail.requests"].sum
    assert (requests.is_monotonic, sum(point.as_int for point in requests.data_points)) == (True, 3)
    duration = metrics["guardrail.decision.duration"]
    assert (duration.unit, sum(point.count for point in duration.histogram.data_points)) == ("s", 3)
    for name, belongs in (
        ("guardrail.decision.duration", "apply_guardrail embedded"),
        ("guardrail.decision.score", "apply_guardrail embedded"),
        ("guardrail.classifier.duration", "apply_guardrail embedded"),
        ("gen_ai.client.operation.duration", f"POST {CHAT}"),
    ):
        exemplars = [each for point in metrics[name].histogram.data_points for each in point.exemplars]
        assert exemplars
        assert {spans[each.span_id].name for each in exemplars} == {belongs}
        assert all(spans[each.span_id].trace_id == each.trace_id for each in exemplars)


async def test_a_stream_that_is_let_out_while_it_is_judged_leaves_the_same_trace(receiver: Receiver) -> None:
    async with exporting(Answering(stream("fine ", "words"), headers=EVENTS), path=CHAT, stream={"mode": "window"}) as client:
        await ask(client, "hello", stream=True)
    assert sorted(span.name for span in receiver.spans) == [
        f"POST {CHAT}",
        "apply_guardrail embedded",
        "apply_guardrail embedded",
        "chat m",
    ]
    held = metrics_of(receiver, "guardrail.stream.held")
    assert [attributes(point.attributes)["guardrail.stream.mode"] for point in held] == ["window"]
    assert metrics_of(receiver, "gen_ai.client.operation.time_to_first_chunk")


def metrics_of(receiver: Receiver, name: str) -> list[Any]:
    """The points of a histogram."""
    return list(receiver.metrics[name].histogram.data_points)
