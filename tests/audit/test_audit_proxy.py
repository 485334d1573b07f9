"""The store behind a whole proxy: what requests leave in it, and what becomes of them when it fails."""

import asyncio
import io
import json
import logging
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from audit_cases import folder_gone
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from guardrail.assembly import build_app
from guardrail.audit.opening import open_reader, store_keys
from guardrail.audit.record import AuditRecord
from guardrail.audit.store import AuditReader, Filter
from guardrail.audit.verify import verify
from guardrail.config.environment import process_environment
from guardrail.config.models import Config
from guardrail.telemetry.log_format import JsonFormatter
from guardrail.testing import RecordingSink, ScriptedClassifier, contains
from guardrail.upstream.embedded import EmbeddedUpstream
from guardrail.upstream.in_process import InProcessUpstream

POLICIES = Path(__file__).parents[1] / "asgi" / "policies"
CHAT = "/v1/chat/completions"
KEYS = {"AUDIT_KEY": "a secret of the tests that is long enough", "AUDIT_TEXTS": "another secret of the tests for texts"}


def settings(folder: Path, route: dict[str, Any], stream: dict[str, Any] | None = None, **audit: Any) -> Config:
    stages = {"policies": ["harassment"]}
    section = {"path": str(folder / "audit.db"), "key_env": "AUDIT_KEY", "content_key_env": "AUDIT_TEXTS", "wait_ms": 200} | audit
    return Config.model_validate(
        {
            "routes": [{"name": "default", "input": stages, "output": stages, "audit": route, "stream": stream or {}}],
            "policies": {"folder": str(POLICIES), "shipped": False},
            "audit": section,
        }
    )


@asynccontextmanager
async def proxied(config: Config) -> AsyncIterator[httpx.AsyncClient]:
    classifier = ScriptedClassifier({"*": contains("forbidden")})
    app = build_app(
        config,
        classifiers=dict.fromkeys(config.classifiers, classifier),
        upstreams=dict.fromkeys(config.upstreams, InProcessUpstream(EmbeddedUpstream())),
        sinks=[RecordingSink()],
    )
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://guard") as client:
        yield client


def body(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "embedded-echo", "messages": [{"role": "user", "content": text}], **more}


def reader(config: Config) -> AuditReader:
    found = open_reader(config, process_environment())
    assert found is not None
    return found


def records(config: Config) -> list[AuditRecord]:
    return reader(config).find(Filter(), content=True)[::-1]


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


async def test_each_stage_of_each_request_leaves_a_record(tmp_path: Path) -> None:
    config = settings(tmp_path, {})
    async with proxied(config) as client:
        answers = [await client.post(CHAT, json=body(text)) for text in ("Good morning.", "something forbidden")]
        answers.append(await client.post("/v1/guard/check", json={"text": "Good evening."}))
    assert [answer.status_code for answer in answers] == [200, 400, 200]
    found = records(config)
    assert [f"{record.stage} {record.action}" for record in found] == ["input pass", "output pass", "input block", "input pass"]
    assert [record.request_id for record in found] == [answers[i].headers["x-request-id"] for i in (0, 0, 1, 2)]
    assert [record.id for record in found][2] == answers[1].headers["x-guardrail-decision-id"]
    assert {record.content for record in found} == {None}
    blocked = found[2]
    (verdict,) = blocked.verdicts
    assert (verdict.policy, verdict.score, blocked.tenant, blocked.model) == ("harassment", 0.97, "default", "embedded-echo")
    assert [record.id for record in reader(config).find(Filter(text="something forbidden"))] == [blocked.id]
    assert verify(reader(config), store_keys(config, process_environment()).chains).damage is None


@pytest.mark.parametrize(("when_full", "status"), [("drop", 200), ("wait", 503)])
@pytest.mark.parametrize("request_body", [body("Good morning."), body("Good morning.", stream=True)])
async def test_requests_do_as_their_route_says_while_the_store_cannot_be_written(
    tmp_path: Path, when_full: str, status: int, request_body: dict[str, Any]
) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    config = settings(folder, {"when_full": when_full})
    async with proxied(config) as client:
        assert (await client.post(CHAT, json=request_body)).status_code == 200
        with folder_gone(folder):
            for _ in range(2):
                answer = await client.post(CHAT, json=request_body)
                assert answer.status_code == status
            if status == 503:
                assert answer.json()["error"]["code"] == "guardrail_unavailable"
                assert answer.headers["x-should-retry"] == "false"
        async with asyncio.timeout(60):
            while (await client.post(CHAT, json=request_body)).status_code != 200:
                await asyncio.sleep(0.05)
    report = verify(reader(config), store_keys(config, process_environment()).chains)
    assert (report.damage, report.lost, report.dropped) == (None, 0, 0)


async def test_a_route_that_waits_has_its_record_before_its_answer(tmp_path: Path) -> None:
    config = settings(tmp_path, {"when_full": "wait"}, wait_ms=60_000)
    async with proxied(config) as client:
        for stream in (False, True):
            answer = await client.post(CHAT, json=body("Good morning.", stream=stream))
            assert answer.status_code == 200
            kept = reader(config).find(Filter(request_id=answer.headers["x-request-id"]))
            assert [record.stage for record in kept] == ["output", "input"]


async def test_a_live_stream_is_cut_off_before_its_end_when_it_cannot_be_recorded(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    config = settings(folder, {"when_full": "wait"}, stream={"mode": "window", "window": 20, "overlap": 5})
    async with proxied(config) as client:
        whole = await client.post(CHAT, json=body("Good morning.", stream=True))
        assert whole.text.endswith("data: [DONE]\n\n")
        with folder_gone(folder):
            cut = await client.post(CHAT, json=body("Good morning.", stream=True))
        assert "guardrail_unavailable" in cut.text
        assert "[DONE]" not in cut.text


async def test_a_stores_failure_at_the_start_does_not_keep_the_proxy_from_starting(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    config = settings(folder, {})
    shutil.rmtree(folder)
    folder.touch()
    with pytest.raises(Exception, match="there is no folder"):
        build_app(config)
    folder.unlink()
    folder.mkdir()
    (folder / "audit.db").mkdir()  # no file can be made there
    async with proxied(config) as client:
        assert (await client.post(CHAT, json=body("Good morning."))).status_code == 200


SECRET = "canary-41d8c7"
PLANTED = f"Good morning, {SECRET}."


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


async def planted(config: Config, monkeypatch: pytest.MonkeyPatch) -> tuple[str, bytes]:
    """The secret in prompt, answer, header and key; what was logged, told in spans and metrics, and the bodies of errors."""
    exporter, spans, metrics = InMemorySpanExporter(), TracerProvider(), InMemoryMetricReader()
    spans.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", spans)  # as an app with its own set-up has them
    monkeypatch.setattr("opentelemetry.metrics._internal._METER_PROVIDER", MeterProvider([metrics]))
    logged = io.StringIO()
    handler = logging.StreamHandler(logged)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("guardrail")
    logger.addHandler(handler)
    level, logger.level = logger.level, logging.DEBUG
    headers = {"authorization": f"Bearer {SECRET}", "x-api-key": SECRET, "cookie": f"a={SECRET}", "x-note": SECRET}
    refused = []
    try:
        async with proxied(config) as client:
            for text, stream in ((PLANTED, False), (PLANTED, True), (f"forbidden {SECRET}", False)):
                answer = await client.post(CHAT, json=body(text, stream=stream, user=SECRET), headers=headers)
                refused += [answer.content] if answer.status_code >= 400 else []
            await client.post(CHAT, content=f'{{"model": "{SECRET}'.encode(), headers=headers)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    told = [span.to_json() for span in exporter.get_finished_spans()]
    data = metrics.get_metrics_data()
    assert len(told) > 8
    assert data is not None
    assert "guardrail.requests" in data.to_json()
    return logged.getvalue() + "".join(told) + data.to_json(), b"".join(refused)


@pytest.mark.parametrize("encrypted", [True, False])
@pytest.mark.parametrize("content", ["none", "redacted", "full"])
async def test_a_secret_is_kept_where_it_is_allowed_and_nowhere_else(
    tmp_path: Path, content: str, encrypted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {} if encrypted else {"content_key_env": None}
    config = settings(tmp_path, {"content": content}, **changes)
    logged, refused = await planted(config, monkeypatch)
    assert SECRET not in logged
    assert SECRET.encode() not in refused
    assert (SECRET.encode() in everything_in(tmp_path)) == (content != "none" and not encrypted)
    said = [part.text for record in records(config) for part in record.content or ()]
    if content == "none":
        assert said == []
    else:
        kept = "forbidden " + SECRET if content == "full" else "[redacted: harassment]"
        assert said == [PLANTED, PLANTED, PLANTED, PLANTED, kept]
    exported = json.dumps([str(record) for record in reader(config).find(Filter())])
    assert SECRET not in exported
