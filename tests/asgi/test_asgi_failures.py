"""Each way to fail has one outcome for the client and exactly one line in the audit log that tells of it."""

import asyncio
import gzip
import json
import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from asgi_cases import BAD, BODY, CHAT, EVENTS, HI, Answering, completion, config, proxied, stream

from guardrail.asgi.outlet import Outlet
from guardrail.asgi.service import Limits
from guardrail.config.tenants import hash_key
from guardrail.errors import ClassifierError, UpstreamError
from guardrail.testing import ScriptedClassifier, contains
from guardrail.upstream.client import UpstreamClient
from guardrail.upstream.embedded import EmbeddedUpstream

SMALL = {"max_body_bytes": 2048}
TENANTS = {"acme": {"api_keys": [hash_key("acme-key")]}}


def fault_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the audit log says beside clean passes and what starting says."""
    found = []
    for record in caplog.records:
        if record.name != "guardrail.audit" or record.getMessage() == "policies_published":
            continue
        fields = record.fields  # type: ignore[attr-defined]
        if record.getMessage() == "decision" and fields["enforced"] == "pass" and not fields["unjudged"]:
            continue
        found.append(f"{record.getMessage()} {fields.get('code') or fields.get('decision')}")
    return found


@dataclass
class Case:
    """What is broken, what is asked, and the one outcome."""

    status: int
    code: str
    line: str
    fault: Any = None
    upstream: Any = None
    ask: dict[str, Any] = field(default_factory=lambda: {"content": BODY})
    settings: dict[str, Any] = field(default_factory=dict)
    route: dict[str, Any] = field(default_factory=dict)


def nested(depth: int) -> bytes:
    return b'{"model":"m","messages":[{"role":"user","content":' + b"[" * depth + b"]" * depth + b"}]}"


def answer(*pieces: bytes, **more: Any) -> Any:
    return lambda: Answering(pieces, **more)


def broken(error: Exception) -> Any:
    return lambda: Answering(stream("a", "b")[:2], headers=EVENTS, error=error)


class TimesOut:
    """An upstream that is reached and never answers."""

    @asynccontextmanager
    async def send(self, *_: object) -> Any:
        raise UpstreamError("timeout", "slow")
        yield

    async def aclose(self) -> None:
        pass


UNJUDGED = "decision unjudged"
CASES = {
    "classifier raises": Case(503, "guardrail_unavailable", UNJUDGED, fault=RuntimeError("boom")),
    "classifier is overloaded": Case(503, "guardrail_unavailable", UNJUDGED, fault=ClassifierError("overloaded", "full")),
    "classifier hangs": Case(503, "guardrail_unavailable", UNJUDGED, fault="hang", route={"deadline_ms": 20}),
    "classifier answers NaN": Case(503, "guardrail_unavailable", UNJUDGED, fault="not_a_number"),
    "classifier answers too little": Case(503, "guardrail_unavailable", UNJUDGED, fault="short"),
    "upstream 429": Case(429, "embedded_429", "upstream_failed status_429", ask={"model": "embedded-error-429"}),
    "upstream 500": Case(500, "embedded_500", "upstream_failed status_500", ask={"model": "embedded-error-500"}),
    "upstream error that is not JSON": Case(
        500, "upstream_error", "upstream_failed status_500", upstream=answer(b"<h1>oops</h1>", status=500)
    ),
    "upstream breaks off": Case(502, "upstream_error", "upstream_failed disconnect", ask={"model": "embedded-disconnect"}),
    "upstream breaks off a stream": Case(
        502, "upstream_error", "upstream_failed disconnect", ask={"model": "embedded-disconnect", "stream": True}
    ),
    "upstream ends a stream early": Case(
        502, "upstream_error", "upstream_failed disconnect", upstream=answer(*stream("a")[:2], headers=EVENTS)
    ),
    "upstream times out": Case(504, "upstream_error", "upstream_failed timeout", upstream=TimesOut),
    "upstream crashes": Case(502, "upstream_error", "upstream_failed disconnect", upstream=broken(RuntimeError("boom"))),
    "upstream is not there": Case(
        502, "upstream_error", "upstream_failed connect", upstream=lambda: UpstreamClient("http://127.0.0.1:9/v1")
    ),
    "upstream sends garbage": Case(502, "upstream_error", "upstream_failed malformed", ask={"model": "embedded-garbage"}),
    "upstream streams garbage": Case(502, "upstream_error", "upstream_failed malformed", ask={"model": "embedded-garbage", "stream": True}),
    "upstream sends a page": Case(
        502, "upstream_error", "upstream_failed malformed", upstream=answer(b"<p>", headers=[(b"content-type", b"text/html")])
    ),
    "upstream sends no type": Case(502, "upstream_error", "upstream_failed malformed", upstream=answer(completion("x"), headers=[])),
    "upstream redirects": Case(502, "upstream_error", "upstream_failed malformed", upstream=answer(b"", status=307)),
    "upstream answers 201 with a violation": Case(201, "", "decision block", upstream=answer(completion(BAD), status=201)),
    "body too large": Case(
        413, "request_too_large", "request_refused request_too_large", ask={"content": b" " * 3000}, settings={"server": SMALL}
    ),
    "body not JSON": Case(400, "invalid_json", "request_refused invalid_json", ask={"content": b"{nope"}),
    "body nested too deep": Case(400, "invalid_json", "request_refused invalid_json", ask={"content": nested(5000)}),
    "body of a wrong type": Case(400, "invalid_model", "request_refused invalid_model", ask={"content": b'{"model":5,"messages":"x"}'}),
    "body compressed": Case(
        415,
        "unsupported_encoding",
        "request_refused unsupported_encoding",
        ask={"content": gzip.compress(BODY), "headers": {"content-encoding": "gzip"}},
    ),
    "body not announced as JSON": Case(
        415,
        "unsupported_media_type",
        "request_refused unsupported_media_type",
        ask={"content": BODY, "headers": {"content-type": "text/plain"}},
    ),
    "unknown path": Case(404, "not_found", "request_refused not_found", ask={"path": "/v1/images/generations"}),
    "unknown model": Case(404, "model_not_found", "request_refused model_not_found", route={"model": "gpt-*"}),
    "no key": Case(401, "invalid_api_key", "request_refused invalid_api_key", settings={"tenants": TENANTS}),
    "unknown key": Case(
        401,
        "invalid_api_key",
        "request_refused invalid_api_key",
        settings={"tenants": TENANTS},
        ask={"content": BODY, "headers": {"authorization": "Bearer nope"}},
    ),
    "unreadable part": Case(
        400,
        "content_filter",
        "decision block",
        ask={
            "content": json.dumps(
                {"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}]}
            )
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_one_outcome_and_one_audit_line(name: str, caplog: pytest.LogCaptureFixture) -> None:
    case = CASES[name]
    caplog.set_level(logging.INFO, "guardrail.audit")
    classifier = ScriptedClassifier({"*": contains("forbidden")}, fault=case.fault)
    upstream = case.upstream() if case.upstream else EmbeddedUpstream()
    async with proxied(config(case.route, **case.settings), upstream=upstream, classifier=classifier) as proxy:
        ask = dict(case.ask)
        path, headers = ask.pop("path", CHAT), {"content-type": "application/json", **ask.pop("headers", {})}
        content = ask.pop("content", None) or json.dumps({"messages": HI, **ask})
        response = await proxy.client.post(path, content=content, headers=headers)
        assert response.status_code == case.status
        assert response.json().get("error", {}).get("code", "") == case.code
        assert fault_lines(caplog) == [case.line]
        retried = response.status_code in {408, 409, 429} or response.status_code >= 500
        if retried and response.headers.get("x-should-retry") != "false":
            assert case.line.split()[1] in {"connect", "status_429", "status_500"}  # nothing of ours makes a client ask thrice
        assert b"forbidden" not in response.content


async def test_fail_open_lets_the_exchange_through_and_says_unjudged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "guardrail.audit")
    classifier = ScriptedClassifier(fault=RuntimeError("boom"))
    async with proxied(config({"on_error": "pass"}), classifier=classifier) as proxy:
        response = await proxy.ask()
        assert (response.status_code, response.headers["x-guardrail-decision"]) == (200, "unjudged")
        assert fault_lines(caplog) == ["decision unjudged"] * 2


async def test_a_classifier_that_fails_on_the_answer_alone_withholds_it() -> None:
    classifier = ScriptedClassifier({"*": lambda text: ClassifierError("crash", "x") if "secret" in text else 0.0})
    for frames, headers in (([completion("a secret answer")], ((b"content-type", b"application/json"),)), (stream("a secret"), EVENTS)):
        async with proxied(upstream=Answering(frames, headers=headers), classifier=classifier) as proxy:
            response = await proxy.ask()
            assert (response.status_code, response.json()["error"]["code"]) == (503, "guardrail_unavailable")
            assert b"secret" not in response.content


async def test_of_an_upstreams_error_only_its_identifiers_pass_where_answers_are_judged() -> None:
    error = {"message": f"it wrote {BAD}", "type": BAD, "param": "tools[0].name", "code": "tool_use_failed", "failed_generation": BAD}
    content = json.dumps({"error": error, "choices": [BAD]}).encode()
    neutral = {"message": "The upstream answered with status 400.", "type": None, "param": "tools[0].name", "code": "tool_use_failed"}
    async with proxied(upstream=Answering([content], status=400)) as proxy:
        response = await proxy.ask()
        assert (response.status_code, response.json()) == (400, {"error": neutral})
    async with proxied(config({"output": {"policies": []}}), upstream=Answering([content], status=400)) as proxy:
        assert (await proxy.ask()).content == content


async def test_a_stream_that_breaks_after_bytes_were_passed_ends_in_an_error_frame() -> None:
    settings = config({"output": {"policies": []}})
    async with proxied(settings, upstream=broken(UpstreamError("timeout", "slow"))()) as proxy:
        response = await proxy.ask(stream=True)
        assert response.status_code == 200
        last = response.content.rstrip().rsplit(b"data: ", 1)[1]
        assert json.loads(last)["error"]["code"] == "upstream_error"
        assert b"[DONE]" not in response.content


async def test_a_full_house_is_503_with_retry_after_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "guardrail.audit")
    classifier = ScriptedClassifier(delay_s=0.1)
    async with proxied(config(server={"max_in_flight": 1}), classifier=classifier) as proxy:
        responses = await asyncio.gather(*(proxy.ask() for _ in range(3)))
        assert sorted(response.status_code for response in responses) == [200, 503, 503]
        refused = next(response for response in responses if response.status_code == 503)
        assert (refused.headers["retry-after"], refused.json()["error"]["code"]) == ("1", "overloaded")
        assert fault_lines(caplog) == ["request_refused overloaded"] * 2
        assert (await proxy.ask()).status_code == 200


async def test_the_list_of_models_counts_as_a_request_in_flight() -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def upstream(scope: Any, receive: Any, send: Any) -> None:
        reached.set()
        await go_on.wait()
        await EmbeddedUpstream()(scope, receive, send)

    async with proxied(config(server={"max_in_flight": 1}), upstream=upstream) as proxy:
        asking = asyncio.create_task(proxy.client.get("/v1/models"))
        await reached.wait()
        for ask in (proxy.ask, lambda: proxy.client.get("/v1/models")):
            refused = await asyncio.wait_for(ask(), 2)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        go_on.set()
        assert (await asking).status_code == 200
        assert (await proxy.ask()).status_code == 200


async def test_a_body_whose_length_is_a_lie_is_bounded_by_what_arrives() -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b" " * 1024

    async with proxied(config(server=SMALL)) as proxy:
        response = await proxy.client.post(CHAT, content=endless(), headers={"content-type": "application/json", "content-length": "10"})
        assert response.status_code == 413


@pytest.mark.parametrize("place", ["guardrail.asgi.exchange.Exchange.judge", "guardrail.asgi.gate.blocked_choices"])
@pytest.mark.parametrize("timing", ["before", "parallel"])
async def test_an_unexpected_defect_is_500_and_releases_nothing(
    place: str, timing: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "guardrail.audit")

    def defect(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(place, defect)
    async with proxied(config({"timing": timing}), upstream=Answering([completion(BAD)])) as proxy:
        response = await proxy.ask()
        assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
        assert response.headers["x-should-retry"] == "false"
        assert fault_lines(caplog)[-1] == "request_refused internal_error"


CASES_OF_SMALL_ANSWERS = {"an answer": (CHAT, BODY), "a refusal": (CHAT, b"{"), "404": ("/nowhere", b""), "models": ("/v1/models", b"")}


@pytest.mark.parametrize("stuck_at", ["http.response.start", "http.response.body"])
@pytest.mark.parametrize("asked", CASES_OF_SMALL_ANSWERS)
async def test_a_client_that_does_not_take_its_answer_is_given_up_however_small_that_is(asked: str, stuck_at: str) -> None:
    path, content = CASES_OF_SMALL_ANSWERS[asked]
    messages = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop()

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == stuck_at:
            await asyncio.Event().wait()

    async with proxied() as proxy:
        proxy.app.routes[0].endpoint._service.limits = replace(Limits(), client_timeout_s=0.1)  # type: ignore[attr-defined]
        method = "GET" if asked == "models" else "POST"
        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "headers": []}
        await asyncio.wait_for(proxy.app(scope, receive, send), 2)


async def test_a_large_answer_goes_out_in_pieces_so_that_a_client_that_stops_taking_it_is_noticed() -> None:
    sizes: list[int] = []

    async def send(message: Any) -> None:
        sizes.append(len(message.get("body", b"")))

    outlet = Outlet(send, request_id="r", timeout_s=1)
    await outlet.open(200, [])
    await outlet.write(b"x" * 1_000_000)
    assert (sum(sizes), max(sizes) <= 262_144) == (1_000_000, True)
    assert outlet.complete


async def test_a_client_too_slow_to_send_its_body_is_408() -> None:
    sent: list[dict[str, Any]] = []

    async def never() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async with proxied(config(server={"client_timeout_s": 1})) as proxy:
        scope = {"type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "query_string": b"", "headers": []}
        await proxy.app(scope, never, send)
        assert sent[0]["status"] == 408
