"""`telemetry.prometheus`: what is served, to whom, and that nobody else learns that it is there."""

from typing import Any

import httpx
import pytest
from asgi_cases import BAD, CHAT, HI, Answering, completion, config
from prometheus_client.parser import text_string_to_metric_families

from guardrail.assembly import Siblings, build_app
from guardrail.config.check import check
from guardrail.config.tenants import hash_key
from guardrail.testing import ScriptedClassifier, contains
from guardrail.upstream.in_process import InProcessUpstream

KEY = "metrics-key"
ASKED = {"enabled": True}
LOCAL = ("127.0.0.1", 5000)


class Serving:
    """A proxy with an upstream that counts, reached from any address."""

    def __init__(self, prometheus: dict[str, Any], place: int = 0) -> None:
        self.upstream = Answering([completion("fine", usage={"prompt_tokens": 3, "completion_tokens": 4})])
        self.app = build_app(
            config(telemetry={"prometheus": prometheus}),
            classifiers={"embedded": ScriptedClassifier({"*": contains("forbidden")})},
            upstreams={"embedded": InProcessUpstream(self.upstream)},
            among=Siblings(place=place),
        )

    async def ask(self, method: str, path: str, client: tuple[str, int] = LOCAL, **more: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, client=client)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as http:
            return await http.request(method, path, **more)


async def test_it_is_not_there_unless_asked_for_and_never_goes_upstream() -> None:
    serving = Serving({})
    async with serving.app.router.lifespan_context(serving.app):
        assert (await serving.ask("GET", "/metrics")).status_code == 404
    assert serving.upstream.bodies == []


async def test_what_was_counted_is_told_in_prometheus_spelling_with_the_workers_number() -> None:
    serving = Serving(ASKED, place=3)
    async with serving.app.router.lifespan_context(serving.app):
        await serving.ask("POST", CHAT, json={"model": "m", "messages": HI})
        await serving.ask("POST", CHAT, json={"model": "m", "messages": [{"role": "user", "content": BAD}]})
        answer = await serving.ask("GET", "/metrics")
        head = await serving.ask("HEAD", "/metrics")
        strict = await serving.ask("GET", "/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0"})
    assert answer.status_code == head.status_code == 200
    assert (head.content, answer.headers["cache-control"]) == (b"", "no-store")
    assert answer.headers["content-type"].startswith("text/plain")
    assert strict.headers["content-type"].startswith("application/openmetrics-text")
    assert strict.text.endswith("# EOF\n")
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    counted = {
        (sample.labels["guardrail_source"], sample.labels["guardrail_decision"]): sample.value
        for sample in samples
        if sample.name == "guardrail_requests_total"
    }
    assert counted == {("input", "pass"): 1, ("output", "pass"): 1, ("input", "block"): 1}
    names = {sample.name for sample in samples}
    assert {"guardrail_decision_duration_seconds_bucket", "guardrail_policies_generation", "guardrail_requests_in_flight"} <= names
    assert "gen_ai_client_token_usage_bucket" in names
    assert {sample.labels.get("guardrail_worker") for sample in samples} == {"3"}
    assert len(serving.upstream.bodies) == 1


@pytest.mark.parametrize(
    ("client", "headers"),
    [
        (("203.0.113.9", 5000), {}),
        (LOCAL, {"x-forwarded-for": "127.0.0.1"}),
        (LOCAL, {"host": "rebound.example.com"}),
        (LOCAL, {"forwarded": "for=127.0.0.1"}),
    ],
)
async def test_without_a_key_it_is_there_for_this_machine_alone(client: tuple[str, int], headers: dict[str, str]) -> None:
    serving = Serving(ASKED)
    async with serving.app.router.lifespan_context(serving.app):
        answer = await serving.ask("GET", "/metrics", client, headers=headers)
        unknown = await serving.ask("GET", "/other", client, headers=headers)
        assert (await serving.ask("POST", "/metrics")).status_code == 404
    assert (answer.status_code, answer.json()) == (404, unknown.json())


@pytest.mark.parametrize("given", [None, "Bearer wrong", f"Basic {KEY}", KEY, "Bearer "])
async def test_with_a_key_it_is_there_for_who_has_it_wherever(given: str | None) -> None:
    serving = Serving({"enabled": True, "path": "/internal/metrics", "key": hash_key(KEY)})
    away = ("203.0.113.9", 5000)
    async with serving.app.router.lifespan_context(serving.app):
        known = await serving.ask("GET", "/internal/metrics", away, headers={"authorization": f"Bearer {KEY}"})
        other = await serving.ask("GET", "/internal/metrics", LOCAL, headers={"authorization": given} if given else {})
    assert (known.status_code, other.status_code) == (200, 404)


@pytest.mark.parametrize(
    ("prometheus", "code", "place"),
    [
        ({"path": "/v1/metrics"}, "C013", "path"),
        ({"path": "/healthz"}, "C013", "path"),
        ({"path": "/console"}, "C013", "path"),
        ({"key": hash_key("tenants")}, "C033", "key"),
    ],
)
def test_what_could_not_be_kept_is_refused_with_its_place(prometheus: dict[str, Any], code: str, place: str) -> None:
    settings = config(telemetry={"prometheus": ASKED | prometheus}, tenants={"acme": {"api_keys": [hash_key("tenants")]}})
    (finding,) = [finding for finding in check(settings) if finding.severity == "error"]
    assert finding.code == code
    assert f"telemetry.prometheus.{place}" in finding.message
