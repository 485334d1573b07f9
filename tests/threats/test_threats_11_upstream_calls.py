"""Group 11: after a block nothing is sent to the model; what is allowed is sent once; no client asks again."""

import json
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
from asgi_cases import BAD, EVENTS, Answering, config, proxied
from threat_cases import BY_PATH, CHAT, MESSAGES, counted

from guardrail.testing import ScriptedClassifier

EVERY = [(path, streamed) for path, case in BY_PATH.items() for streamed in ((False, True) if case.streams else (False,))]
each_way = pytest.mark.parametrize(("path", "streamed"), EVERY)


@each_way
async def test_a_blocked_prompt_costs_no_call(path: str, streamed: bool) -> None:
    async with counted(path, streamed=streamed) as (proxy, upstream):
        assert (await proxy.client.post(path, json=BY_PATH[path].request(BAD, streamed))).status_code == 400
    assert upstream.bodies == []


@each_way
@pytest.mark.parametrize("timing", ["before", "parallel"])
async def test_an_allowed_prompt_costs_one_call_with_the_clients_own_bytes(path: str, streamed: bool, timing: str) -> None:
    body = json.dumps(BY_PATH[path].request("hi", streamed), indent=1).encode()
    async with counted(path, streamed=streamed, route={"timing": timing}) as (proxy, upstream):
        got = await proxy.client.post(path, content=body, headers={"content-type": "application/json"})
    assert got.status_code == 200
    assert upstream.bodies == [body]


@each_way
async def test_a_withheld_answer_is_not_asked_for_again(path: str, streamed: bool) -> None:
    if not BY_PATH[path].generates:
        pytest.skip("it says nothing that could be withheld")
    case = BY_PATH[path]
    upstream = Answering([case.stream(BAD)], headers=EVENTS) if streamed else Answering([case.answer(BAD)])
    async with proxied(config(), upstream=upstream) as proxy:
        assert BAD not in (await proxy.client.post(path, json=case.request("hi", streamed))).text
    assert len(upstream.bodies) == 1


@each_way
async def test_what_cannot_be_judged_costs_no_call(path: str, streamed: bool) -> None:
    broken = ScriptedClassifier({}, fault="not_a_number")
    async with counted(path, streamed=streamed, classifier=broken) as (proxy, upstream):
        got = await proxy.client.post(path, json=BY_PATH[path].request("hi", streamed))
    assert (got.status_code, got.headers["x-should-retry"]) == (503, "false")
    assert upstream.bodies == []


def through(app: Any, hits: list[Any], library: Any) -> Any:
    """A client's way to the proxy in this process; `hits` are the requests that took it."""

    async def took(request: Any) -> None:
        hits.append(request)

    return library.AsyncClient(transport=library.ASGITransport(app), event_hooks={"request": [took]})


@pytest.mark.parametrize("fault", [None, "not_a_number"])
@pytest.mark.parametrize("text", [BAD, "hi"])
async def test_no_client_storms_with_retries(fault: Any, text: str) -> None:
    hits: list[Any] = []
    classifier = ScriptedClassifier({"*": lambda said: 0.97 if "forbidden" in said else 0.01}, fault=fault)
    async with counted(CHAT, classifier=classifier) as (proxy, upstream):
        async with through(proxy.app, hits, httpx) as way:
            client = openai.AsyncOpenAI(base_url="http://guard/v1", api_key="none", max_retries=2, http_client=way)
            asked: Any = {"model": "m", "messages": [{"role": "user", "content": text}]}
            if fault is None and text == "hi":
                assert (await client.chat.completions.create(**asked)).choices[0].message.content == "fine"
            else:
                with pytest.raises(openai.InternalServerError if fault else openai.BadRequestError):
                    await client.chat.completions.create(**asked)
    assert len(hits) == 1
    assert len(upstream.bodies) == (1 if fault is None and text == "hi" else 0)


async def test_anthropics_client_asks_once_as_well() -> None:
    hits: list[Any] = []
    async with counted(MESSAGES) as (proxy, upstream):
        async with through(proxy.app, hits, httpx2) as way:
            client = anthropic.AsyncAnthropic(base_url="http://guard", api_key="none", max_retries=2, http_client=way)
            with pytest.raises(anthropic.BadRequestError):
                await client.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": BAD}])
    assert (len(hits), upstream.bodies) == (1, [])
