"""Group 13: with capture off, what a prompt, an answer, a header or a key holds is in no log, span, metric or error."""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from asgi_cases import CHAT, EVENTS, POLICIES, Answering, completion, stream
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from guardrail.asgi.app import make_app
from guardrail.asgi.service import Backends, Endpoint, GuardService, Observers
from guardrail.config.models import Config
from guardrail.config.tenants import hash_key
from guardrail.errors import ClassifierError, UpstreamError
from guardrail.events import EventFanout
from guardrail.telemetry.log import AuditLog
from guardrail.telemetry.log_format import JsonFormatter
from guardrail.telemetry.metrics import Metrics
from guardrail.telemetry.tracing import Tracing
from guardrail.testing import ScriptedClassifier, contains
from guardrail.upstream.in_process import InProcessUpstream

SECRET = "canary-7f3a91"
KEY = f"key-{SECRET}"
HEADERS = {"authorization": f"Bearer {KEY}", "x-note": SECRET, "cookie": f"session={SECRET}", "baggage": f"user={SECRET}"}
SAID = f"please keep {SECRET} to yourself"

CASES: dict[str, dict[str, Any]] = {
    "allowed": {},
    "prompt blocked": {"text": f"{SAID} forbidden"},
    "answer blocked": {"answer": f"{SAID} forbidden"},
    "stream blocked": {"answer": f"{SAID} forbidden", "stream": True},
    "window blocked": {
        "answer": f"{SAID} forbidden",
        "stream": True,
        "route": {"path": CHAT, "stream": {"mode": "window", "window": 20, "overlap": 5}},
    },
    "history dropped": {"before": f"{SAID} forbidden", "route": {"history": "drop"}},
    "history redacted": {"before": f"{SAID} forbidden", "route": {"history": "redact"}},
    "split over turns": {"before": f"{SAID} for", "text": f"bidden {SECRET}"},
    "classifier broken": {"fault": RuntimeError(SECRET)},
    "classifier says why": {"fault": ClassifierError("crash", SECRET)},
    "upstream broken": {"error": UpstreamError("disconnect", SECRET)},
    "upstream defect": {"error": RuntimeError(SECRET)},
    "upstream refuses": {"status": 401, "answer": SECRET},
    "unknown key": {"headers": {**HEADERS, "authorization": f"Bearer other-{SECRET}"}},
    "unknown model": {"model": SECRET + "?" * 300},
    "malformed": {"content": f'{{"model": "m", "messages": [{{"role": "{SECRET}"'.encode()},
    "doubled key": {"content": f'{{"model": "m", "messages": [], "{SECRET}": 1, "{SECRET}": 2}}'.encode()},
    "odd role": {"role": SECRET},
    "a picture": {"text": [{"type": "image_url", "image_url": {"url": f"https://example.org/{SECRET}"}}]},
}


@asynccontextmanager
async def observed(case: dict[str, Any]) -> AsyncIterator[tuple[httpx.AsyncClient, InMemorySpanExporter, InMemoryMetricReader]]:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        yield ScriptedClassifier({"*": contains("forbidden", "for\nbidden")}, fault=case.get("fault"))

    section = {"policies": ["harassment"]}
    route = {"name": "default", "input": section, "output": section, **case.get("route", {})}
    settings = Config.model_validate({"routes": [route], "policies": POLICIES, "tenants": {"acme": {"api_keys": [hash_key(KEY)]}}})
    exporter, provider, reader = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False), InMemoryMetricReader()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    metrics = Metrics(MeterProvider((reader,), shutdown_on_exit=False))
    observers = Observers(EventFanout((AuditLog(), metrics)), Tracing(provider, debug=True), metrics)
    service = GuardService(settings, Backends({"embedded": opened}, None, {"embedded": Endpoint("openai")}), observers)
    said = case.get("answer", SAID)
    pieces = stream(*said.split(" ")) if case.get("stream") else [completion(said)]
    headers = EVENTS if case.get("stream") else ((b"content-type", b"application/json"),)
    upstream = Answering(pieces, status=case.get("status", 200), headers=headers, error=case.get("error"))
    app = make_app(service, {"embedded": InProcessUpstream(upstream)})
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://guard") as client:
        yield client, exporter, reader


def asked(case: dict[str, Any]) -> bytes:
    if "content" in case:
        return bytes(case["content"])
    turns = [{"role": "user", "content": case["before"]}, {"role": "assistant", "content": SAID}] if "before" in case else []
    turns.append({"role": case.get("role", "user"), "content": case.get("text", SAID)})
    body = {
        "model": case.get("model", "m"),
        "messages": turns,
        "stream": case.get("stream", False),
        "user": SECRET,
        "metadata": {"a": SECRET},
    }
    return json.dumps(body).encode()


@pytest.mark.parametrize("name", CASES)
async def test_the_secret_is_nowhere(name: str, caplog: pytest.LogCaptureFixture) -> None:
    case = CASES[name]
    caplog.set_level(logging.DEBUG)
    async with observed(case) as (client, exporter, reader):
        headers = {"content-type": "application/json", **case.get("headers", HEADERS)}
        answer = await client.post(f"{CHAT}?key={SECRET}", content=asked(case), headers=headers)
        if answer.status_code != 200 or "blocked" in name:
            assert SECRET not in answer.text
        assert SECRET not in str(answer.headers)
        spans = "\n".join(span.to_json() for span in exporter.get_finished_spans())
        metrics = reader.get_metrics_data()
    assert spans
    assert SECRET not in spans
    assert SECRET not in (metrics.to_json() if metrics is not None else "")
    formatter = JsonFormatter()
    lines = [formatter.format(record) for record in caplog.records if record.name.startswith("guardrail")]
    assert [line for line in lines if SECRET in line] == []


async def test_the_listing_of_metrics_is_not_empty() -> None:
    """The search above finds what is there: the same exchange leaves spans and metrics that name its route."""
    async with observed({}) as (client, exporter, reader):
        await client.post(CHAT, content=asked({}), headers={"content-type": "application/json", **HEADERS})
        metrics = reader.get_metrics_data()
        assert metrics is not None
        assert "acme" in metrics.to_json()
        assert "default" in "\n".join(span.to_json() for span in exporter.get_finished_spans())
