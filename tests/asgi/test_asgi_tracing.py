"""The spans of one exchange, from the caller's trace to the upstream's."""

from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from asgi_cases import BAD, CHAT, EVENTS, HI, Answering, completion, config, proxied, stream
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from guardrail.asgi.app import make_app
from guardrail.asgi.service import Backends, Endpoint, GuardService, Observers
from guardrail.telemetry.tracing import Tracing
from guardrail.testing import ScriptedClassifier, contains
from guardrail.upstream.in_process import InProcessUpstream

TRACE = "0af7651916cd43dd8448eb211c80319c"


@asynccontextmanager
async def traced(upstream: Any, **route: Any) -> Any:
    @asynccontextmanager
    async def opened() -> Any:
        yield ScriptedClassifier({"*": contains("forbidden")})

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    endpoints = {"embedded": Endpoint("openai", "https://api.example.org/v1")}
    service = GuardService(config(route), Backends({"embedded": opened}, None, endpoints), Observers(tracing=Tracing(provider)))
    app = make_app(service, {"embedded": InProcessUpstream(upstream)})
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://guard") as client:
        yield client, exporter


async def test_one_exchange_is_one_trace_that_goes_on_at_the_upstream() -> None:
    upstream = Answering([completion("fine", usage={"prompt_tokens": 3, "completion_tokens": 4})])
    async with traced(upstream) as (client, exporter):
        headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
        await client.post(CHAT, json={"model": "gpt-x", "messages": HI}, headers=headers)
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert [span.name for span in exporter.get_finished_spans()] == [
        "apply_guardrail embedded",
        "apply_guardrail embedded",
        "chat gpt-x",
        f"POST {CHAT}",
    ]
    root, chat = spans[f"POST {CHAT}"], spans["chat gpt-x"]
    assert {format(span.context.trace_id, "032x") for span in exporter.get_finished_spans()} == {TRACE}
    assert all(span.parent.span_id == root.context.span_id for name, span in spans.items() if span is not root)
    assert root.attributes["http.response.status_code"] == 200
    assert chat.attributes["server.address"] == "api.example.org"
    assert chat.attributes["gen_ai.usage.output_tokens"] == 4
    assert upstream.seen[0]["traceparent"] == f"00-{TRACE}-{chat.context.span_id:016x}-01"


async def test_a_caller_can_neither_switch_its_spans_off_nor_choose_their_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", provider)  # as an app with its own set-up has it
    async with proxied(upstream=Answering([completion("fine")])) as proxy:
        headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-00"}
        await proxy.client.post(CHAT, json={"model": "m", "messages": HI}, headers=headers)
    spans = exporter.get_finished_spans()
    assert len(spans) == 4
    assert TRACE not in {format(span.context.trace_id, "032x") for span in spans}
    assert [format(link.context.trace_id, "032x") for link in spans[-1].links] == [TRACE]


async def test_a_blocked_prompt_has_no_upstream_span_and_no_content() -> None:
    for timing in ("before", "parallel"):
        async with traced(Answering([completion("fine")]), timing=timing) as (client, exporter):
            await client.post(CHAT, json={"model": "m", "messages": [{"role": "user", "content": BAD}]})
        spans = exporter.get_finished_spans()
        assert (spans[-1].name, spans[-1].attributes["http.response.status_code"]) == (f"POST {CHAT}", 400)
        assert "forbidden" not in "".join(span.to_json() for span in spans)
        if timing == "before":
            assert [span.name for span in spans] == ["apply_guardrail embedded", f"POST {CHAT}"]


async def test_the_upstreams_span_has_the_numbers_of_the_request_and_what_the_answer_says_of_itself() -> None:
    answer = completion("fine", usage={"prompt_tokens": 3, "completion_tokens": 4})
    async with traced(Answering([answer])) as (client, exporter):
        body = {"model": "gpt-x", "messages": HI, "temperature": 0.5, "stop": ["private"], "response_format": {"type": "json_object"}}
        await client.post(CHAT, json=body)
    spans = {span.name: span for span in exporter.get_finished_spans()}
    found = dict(spans["chat gpt-x"].attributes)
    assert {name: found[name] for name in found if name.startswith(("gen_ai.request.", "gen_ai.response.", "gen_ai.output."))} == {
        "gen_ai.request.model": "gpt-x",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.output.type": "json",
        "gen_ai.response.id": "c1",
        "gen_ai.response.model": "m",
        "gen_ai.response.finish_reasons": ("stop",),
    }
    assert spans[f"POST {CHAT}"].attributes["guardrail.overhead_ms"] > 0
    assert "private" not in "".join(span.to_json() for span in exporter.get_finished_spans())


@pytest.mark.parametrize("mode", ["hold", "window"])
async def test_the_upstreams_span_of_a_stream_says_when_it_began_and_what_it_was(mode: str) -> None:
    upstream = Answering(stream("fine ", "words"), headers=EVENTS)
    async with traced(upstream, path=CHAT, stream={"mode": mode}) as (client, exporter):
        await client.post(CHAT, json={"model": "gpt-x", "messages": HI, "stream": True})
    found = next(span.attributes for span in exporter.get_finished_spans() if span.name == "chat gpt-x")
    assert found["gen_ai.response.time_to_first_chunk"] >= 0
    assert (found["gen_ai.response.id"], found["gen_ai.response.model"]) == ("c1", "m")


@pytest.mark.parametrize("mode", ["window", "overlap", "watch"])
async def test_an_answer_that_is_let_out_while_it_is_judged_has_one_guard_span_with_its_windows_and_its_decision(mode: str) -> None:
    upstream = Answering(stream("fine words. " * 5, "and something forbidden. ", "more"), headers=EVENTS)
    async with traced(upstream, path=CHAT, stream={"mode": mode, "window": 20, "overlap": 4}) as (client, exporter):
        await client.post(CHAT, json={"model": "m", "messages": HI, "stream": True})
    spans = exporter.get_finished_spans()
    root = next(span for span in spans if span.name == f"POST {CHAT}")
    (output,) = [span for span in spans if span.attributes.get("guardrail.source") == "output"]
    assert output.parent.span_id == root.context.span_id
    assert (output.attributes["guardrail.decision"], output.attributes["guardrail.sampling.keep"]) == ("block", True)
    assert root.attributes["guardrail.sampling.keep"] is True
    windows = [event.attributes for event in output.events if event.name == "guardrail.window"]
    assert windows
    assert windows[-1]["guardrail.action"] == "block"
    assert [event.attributes["guardrail.policy.id"] for event in output.events if event.name == "gen_ai.guardrail.result"] == ["harassment"]
