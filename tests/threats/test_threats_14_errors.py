"""Group 14: what a blocked caller is told holds nothing of what was judged, nor of the rules; how long it took is recorded."""

import json
from pathlib import Path
from typing import Any

import pytest
from asgi_cases import BAD, EVENTS, Answering, Proxy, config, proxied
from threat_cases import BY_PATH, CHAT, counted, user

from guardrail.events import DecisionMade

SECRET = f"{BAD} zebra-in-the-cellar"
RULES = (Path(__file__).parents[1] / "asgi" / "policies" / "harassment.md").read_text().split("# Policy")[1].splitlines()


def silent(text: str, *more: str) -> None:
    """Nothing of the text that was judged, and no line of the policy that fired."""
    for word in ("forbidden", "zebra", "cellar", *more):
        assert word not in text
    for rule in RULES:
        said = rule.strip(" -#*")
        if len(said) > 12:
            assert said not in text


EVERY = [(path, streamed) for path, case in BY_PATH.items() for streamed in ((False, True) if case.streams else (False,))]


@pytest.mark.parametrize(("path", "streamed"), EVERY)
@pytest.mark.parametrize("on_block", ["error", "reply"])
async def test_a_blocked_prompt_is_not_echoed(path: str, streamed: bool, on_block: str) -> None:
    async with counted(path, streamed=streamed, route={"on_block": on_block}) as (proxy, _):
        got = await proxy.client.post(path, json=BY_PATH[path].request(SECRET, streamed))
    silent(got.text)
    silent(str(got.headers))


@pytest.mark.parametrize(("path", "streamed"), [way for way in EVERY if BY_PATH[way[0]].generates])
async def test_a_withheld_answer_is_not_echoed(path: str, streamed: bool) -> None:
    case = BY_PATH[path]
    upstream = Answering([case.stream(SECRET)], headers=EVENTS) if streamed else Answering([case.answer(SECRET)])
    async with proxied(config(), upstream=upstream) as proxy:
        got = await proxy.client.post(path, json=case.request("hi", streamed))
    silent(got.text)
    silent(str(got.headers))


@pytest.mark.parametrize(
    "body",
    [
        {"model": SECRET * 20, "messages": [{"role": "user", "content": "x"}]},
        {"model": "m", "messages": SECRET},
        {"model": "m", "messages": [SECRET]},
        {"model": "m", "messages": [{"role": "user", "content": {"x": SECRET}}]},
        {"model": "m", "messages": [{"role": "user", "content": "x"}], "n": SECRET},
        {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": SECRET},
        {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream_options": SECRET},
        {"model": "m", "messages": [{"role": "user", "content": "x"}], "moderation": SECRET},
        {"model": "m", "messages": [{"role": "user", "content": SECRET, "Role": "user"}]},
    ],
)
async def test_a_request_that_is_none_is_not_echoed(body: Any) -> None:
    async with counted(CHAT) as (proxy, upstream):
        got = await proxy.client.post(CHAT, json=body)
    assert (got.status_code, upstream.bodies) == (400, [])
    silent(got.text)


@pytest.mark.parametrize("raw", [f'{{"model": "{SECRET}"', f'{{"{SECRET}": 1, "{SECRET}": 2}}', f'["{SECRET}"]', f'{{"x": {SECRET}}}'])
async def test_a_body_that_is_no_json_is_not_echoed(raw: str) -> None:
    async with counted(CHAT) as (proxy, _):
        got = await proxy.client.post(CHAT, content=raw.encode(), headers={"content-type": "application/json"})
    assert got.status_code == 400
    silent(got.text)


@pytest.mark.parametrize("status", [400, 404, 429, 500])
async def test_an_upstreams_error_that_quotes_the_prompt_is_not_passed_on(status: int) -> None:
    error = {"error": {"message": f"cannot answer: {SECRET}", "type": "invalid_request_error", "param": SECRET, "code": SECRET}}
    async with proxied(config(), upstream=Answering([json.dumps(error).encode()], status=status)) as proxy:
        got = await proxy.ask("hi")
    assert got.status_code == status
    silent(got.text)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/moderations", {"input": SECRET, "unknown": SECRET}),
        ("/v1/guard/check", {"text": SECRET, "stage": SECRET}),
        ("/v1/guard/check", {"text": {"x": SECRET}}),
        ("/v1/label", {"content_text": SECRET, "policy_id": SECRET}),
        ("/api/v1/text/contents", {"contents": SECRET}),
        ("/beta/litellm_basic_guardrail_api", {"texts": SECRET, "input_type": "request"}),
    ],
)
async def test_checks_that_cannot_be_made_echo_nothing(path: str, body: Any) -> None:
    async with proxied() as proxy:
        got = await proxy.client.post(path, json=body)
    assert got.status_code >= 400
    silent(got.text)


async def judged(proxy: Proxy, text: str) -> DecisionMade:
    before = len(proxy.sink.of(DecisionMade))
    got = await proxy.client.post(CHAT, json=user(text))
    assert float(got.headers["x-guardrail-overhead-ms"]) >= 0
    return proxy.sink.of(DecisionMade)[before]


async def test_how_long_a_block_and_a_pass_took_is_recorded() -> None:
    async with counted(CHAT) as (proxy, _):
        blocked, passed = await judged(proxy, BAD), await judged(proxy, "hi")
    assert [event.decision.action.word for event in (blocked, passed)] == ["block", "pass"]
    assert all(event.decision.duration_s > 0 for event in (blocked, passed))
