"""Group 9: nothing that a caller writes switches a check off, renames it, or picks a weaker route."""

import json
from typing import Any
from urllib.parse import unquote

import pytest
from asgi_cases import BAD, POLICIES, completion, config, proxied
from threat_cases import CHAT, MESSAGES, RESPONSES, answering, counted, refused, user

from guardrail.config.models import Config
from guardrail.config.tenants import hash_key

OFF: dict[str, Any] = {
    "guardrails, an empty object": {"guardrails": {}},
    "guardrails, an empty list": {"guardrails": []},
    "guardrails, none": {"guardrails": None},
    "guardrail, false": {"guardrail": False},
    "another policy": {"guardrails": ["nothing"]},
    "a policy renamed": {"policies": {"harassment": {"id": "harmless"}}},
    "no policies": {"policies": []},
    "thresholds": {"policies": [{"id": "harassment", "threshold": 1.0}]},
    "metadata": {"metadata": {"guardrails": {}, "disable_global_guardrail": True}},
    "metadata of litellm": {"litellm_metadata": {"guardrails": []}},
    "detectors": {"detectors": {"input": {}, "output": {}}},
    "extra_body": {"extra_body": {"guardrails": []}},
    "the mode": {"mode": "shadow"},
    "moderation that only scores": {"moderation": {"model": "m", "policy": {"input": {"mode": "score"}, "output": {"mode": "score"}}}},
    "moderation that is none": {"moderation": None},
}


@pytest.mark.parametrize("field", OFF)
async def test_no_field_of_a_body_weakens_the_guard(field: str) -> None:
    await refused(CHAT, user(BAD) | OFF[field])


@pytest.mark.parametrize("field", OFF)
async def test_no_field_of_a_body_weakens_the_guard_of_the_answer(field: str) -> None:
    async with counted(CHAT) as (proxy, upstream):
        upstream.pieces = [completion(BAD)]
        got = await proxy.client.post(CHAT, json=user("hi") | OFF[field])
    assert BAD not in got.text


@pytest.mark.parametrize(
    "header",
    [
        *(
            "x-guardrail-decision",
            "x-guardrail-mode",
            "x-guardrail-policies",
            "x-guardrail-route",
            "x-guardrail-tenant",
            "x-guardrail-bypass",
        ),
        *("x-litellm-guardrails", "x-portkey-config", "x-bedrock-guardrail-identifier", "x-http-method-override", "x-original-url"),
        *("x-forwarded-prefix", "x-rewrite-url", "x-tenant", "content-encoding"),
    ],
)
async def test_no_header_weakens_the_guard(header: str) -> None:
    value = {"content-encoding": "identity", "x-original-url": "/healthz", "x-rewrite-url": "/healthz"}.get(header, "off")
    async with counted(CHAT) as (proxy, upstream):
        got = await proxy.client.post(CHAT, json=user(BAD), headers={header: value})
    assert (got.status_code, upstream.bodies) == (400, [])


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"m","messages":[{"role":"user","content":"hi"}],"messages":[{"role":"user","content":"something forbidden"}]}',
        b'{"model":"m","messages":[{"role":"user","content":"hi","content":"something forbidden"}]}',
        b'{"model":"m","model":"n","messages":[{"role":"user","content":"hi"}]}',
        b'{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":false,"stream":true}',
        b'{"model":"m","m\\u0065ssages":[],"messages":[{"role":"user","content":"hi"}]}',
    ],
)
async def test_a_repeated_key_is_refused(raw: bytes) -> None:
    async with counted(CHAT) as (proxy, upstream):
        got = await proxy.client.post(CHAT, content=raw, headers={"content-type": "application/json"})
    assert (got.status_code, upstream.bodies) == (400, [])


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
@pytest.mark.parametrize("field", ["Stream", "STREAM", "ſtream", "Model", "TOOLS", "Web_Search_Options"])
async def test_a_field_in_another_case_is_refused(path: str, field: str) -> None:
    body = {"model": "m", "input": "hi"} if path == RESPONSES else user("hi")
    async with counted(path) as (proxy, upstream):
        got = await proxy.client.post(path, json=body | {field: True})
    assert (got.status_code, upstream.bodies) == (400, [])


@pytest.mark.parametrize("value", ["true", 1, "yes", [True], {"on": True}])
async def test_a_stream_that_is_neither_true_nor_false_is_refused(value: Any) -> None:
    async with counted(CHAT) as (proxy, upstream):
        assert (await proxy.client.post(CHAT, json=user("hi") | {"stream": value})).status_code == 400
    assert upstream.bodies == []


KEYS = {name: f"a-long-key-of-{name}" for name in ("strict", "lax")}


def two_tenants() -> Config:
    checked: dict[str, list[str]] = {"policies": ["harassment"]}
    free: dict[str, list[str]] = {"policies": []}
    routes = [
        {"name": "lax", "tenant": "lax", "model": "lax-*", "input": free, "output": free},
        {"name": "strict", "tenant": "strict", "model": "m*", "input": checked, "output": checked},
    ]
    tenants = {name: {"api_keys": [hash_key(key)]} for name, key in KEYS.items()}
    return Config.model_validate({"routes": routes, "tenants": tenants, "policies": POLICIES})


async def test_another_tenants_route_is_out_of_reach() -> None:
    upstream = answering(CHAT)
    async with proxied(two_tenants(), upstream=upstream) as proxy:

        async def ask(key: str | None, model: str, **headers: str) -> int:
            sent = headers | ({"authorization": f"Bearer {KEYS[key]}"} if key else {})
            return int((await proxy.client.post(CHAT, json=user(BAD) | {"model": model}, headers=sent)).status_code)

        assert await ask("lax", "lax-1") == 200
        upstream.bodies.clear()
        assert await ask("strict", "m") == 400
        assert await ask("strict", "lax-1") == 404
        assert await ask(None, "lax-1") == 401
        assert await ask("strict", "m", **{"x-tenant": "lax", "openai-organization": "lax"}) == 400
        assert await ask("strict", "m", **{"x-api-key": KEYS["lax"]}) == 401  # two keys that disagree
        checked = await proxy.client.post(
            "/v1/guard/check", json={"text": BAD, "route": "lax"}, headers={"authorization": f"Bearer {KEYS['strict']}"}
        )
        assert checked.status_code == 404
    assert upstream.bodies == []


async def test_a_model_without_a_route_is_refused_and_not_served_by_another() -> None:
    upstream = answering(CHAT)
    async with proxied(config({"model": "m"}), upstream=upstream) as proxy:
        for model in ("unknown", "M", "m ", "m\x00", "*", "[m]", "m/../n", "x" * 300):
            got = await proxy.client.post(CHAT, json=user("hi") | {"model": model})
            assert got.status_code in (400, 404), model
        for bad in (None, 7, ["m"], {"m": 1}, ""):
            assert (await proxy.client.post(CHAT, json=user("hi") | {"model": bad})).status_code == 400
    assert upstream.bodies == []


@pytest.mark.parametrize(
    "spelled",
    [
        *(
            "//v1/chat/completions",
            "/v1//chat/completions",
            "/v1/../v1/chat/completions",
            "/v1/./chat/completions",
            "/v1/chat/completions/",
        ),
        *("/V1/chat/completions", "/v1/Chat/Completions", "/v1/chat%2Fcompletions", "/v1/chat/%63ompletions", "/v1/chat/completions%00"),
        *(
            "/v1/chat/completions;x=1",
            "/v1/chat/completions%20",
            "/v1\\chat\\completions",
            "/v1/models/../chat/completions",
            "/chat/completions",
        ),
        *(
            "/v1/v1/chat/completions",
            "/openai/v1/chat/completions",
            "/healthz/../v1/chat/completions",
            "/v1/chat/completions%3Fx",
            "/v1/audio/speech",
        ),
    ],
)
async def test_no_other_spelling_of_a_path_reaches_the_model(spelled: str) -> None:
    async with counted(CHAT) as (proxy, upstream):
        statuses: list[int] = []

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        async def receive() -> Any:
            return {"type": "http.request", "body": json.dumps(user(BAD)).encode(), "more_body": False}

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http", "query_string": b"",
            "path": unquote(spelled), "raw_path": spelled.encode(), "root_path": "", "server": ("guard", 80), "client": ("c", 1),
            "headers": [(b"host", b"guard"), (b"content-type", b"application/json")],
        }  # fmt: skip
        await proxy.app(scope, receive, send)
    assert statuses in ([404], [405])
    assert upstream.bodies == []
