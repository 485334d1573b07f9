"""Group 15: what unmodified clients make of a block: each thing that broke one. The whole matrix of clients runs in tests/contract."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
from asgi_cases import BAD, EVENTS, Answering, completion, config, proxied, stream
from langchain_openai import ChatOpenAI
from protocol_cases import message_events, said
from pydantic import BaseModel
from threat_cases import CHAT, MESSAGES, answering

HI: Any = [{"role": "user", "content": "hi"}]
BLOCKED: Any = [{"role": "user", "content": BAD}]


@asynccontextmanager
async def with_openai(upstream: Any, route: Any = None) -> AsyncIterator[openai.AsyncOpenAI]:
    async with proxied(config(route), upstream=upstream) as proxy, httpx.AsyncClient(transport=httpx.ASGITransport(proxy.app)) as way:
        yield openai.AsyncOpenAI(base_url="http://guard/v1", api_key="none", max_retries=2, http_client=way)


@pytest.mark.parametrize("streamed", [False, True])
async def test_openai_raises_a_bad_request_with_its_code_type_and_param(streamed: bool) -> None:
    async with with_openai(answering(CHAT)) as client:
        with pytest.raises(openai.BadRequestError) as raised:
            await client.chat.completions.create(model="m", messages=BLOCKED, stream=streamed)
    error = raised.value
    assert (error.code, error.type, error.param) == ("content_filter", "invalid_request_error", "messages")
    assert "content_policy_violation" in str(error.body)  # what litellm looks for
    assert error.body["innererror"]["code"] == "ResponsibleAIPolicyViolation"  # type: ignore[index]  # what Azure's clients look for


class Shape(BaseModel):
    words: str


async def test_openais_helpers_raise_their_own_error_for_a_withheld_answer() -> None:
    async with with_openai(Answering([completion(BAD)])) as client:
        with pytest.raises(openai.ContentFilterFinishReasonError):
            await client.chat.completions.parse(model="m", messages=HI, response_format=Shape)
    async with with_openai(Answering(stream(BAD), headers=EVENTS)) as client:
        async with client.chat.completions.stream(model="m", messages=HI) as events:
            with pytest.raises(openai.ContentFilterFinishReasonError):
                await events.get_final_completion()


@pytest.mark.parametrize("mode", ["hold", "window", "overlap", "watch"])
@pytest.mark.parametrize("said_", ["fine", BAD])
async def test_every_frame_has_choices_with_a_delta_and_none_comes_after_the_end(mode: str, said_: str) -> None:
    route = {"stream": {"mode": mode}, "path": CHAT}
    async with proxied(config(route), upstream=Answering(stream("well ", said_), headers=EVENTS)) as proxy:
        got = await proxy.ask("hi", stream=True)
    documents = said(got.text)
    assert all(document["choices"] and all("delta" in choice for choice in document["choices"]) for document in documents)
    assert got.text.endswith("data: [DONE]\n\n")
    assert got.text.count("[DONE]") == 1
    finish = [choice["finish_reason"] for document in documents for choice in document["choices"] if choice["finish_reason"]]
    assert finish == ["content_filter" if said_ == BAD else "stop"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_choices_are_never_an_empty_list(streamed: bool) -> None:
    upstream = Answering(stream(BAD), headers=EVENTS) if streamed else Answering([completion(BAD)])
    async with proxied(config(), upstream=upstream) as proxy:
        got = await proxy.ask("hi", stream=streamed)
    assert all(document["choices"] for document in (said(got.text) if streamed else [got.json()]))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("text", ["fine", BAD])
async def test_langchain_reads_the_reason(streamed: bool, text: str) -> None:
    upstream = Answering(stream(text), headers=EVENTS) if streamed else Answering([completion(text)])
    async with proxied(config(), upstream=upstream) as proxy, httpx.AsyncClient(transport=httpx.ASGITransport(proxy.app)) as way:
        client = ChatOpenAI(base_url="http://guard/v1", api_key="none", model="m", http_async_client=way)  # type: ignore[arg-type]
        if streamed:
            chunks = [chunk async for chunk in client.astream("hi")]
            reasons = [chunk.response_metadata["finish_reason"] for chunk in chunks if chunk.response_metadata.get("finish_reason")]
        else:
            reasons = [(await client.ainvoke("hi")).response_metadata["finish_reason"]]
    assert reasons == ["content_filter" if text == BAD else "stop"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_anthropics_client_reads_a_refusal(streamed: bool) -> None:
    message = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": BAD}]}
    whole = json.dumps({**message, "stop_reason": "end_turn", "usage": {"input_tokens": 1, "output_tokens": 1}}).encode()
    upstream = Answering([message_events(BAD)], headers=EVENTS) if streamed else Answering([whole])
    async with proxied(config(), upstream=upstream) as proxy, httpx2.AsyncClient(transport=httpx2.ASGITransport(proxy.app)) as way:
        client = anthropic.AsyncAnthropic(base_url="http://guard", api_key="none", max_retries=2, http_client=way)
        got: anthropic.types.Message
        if streamed:
            async with client.messages.stream(model="m", max_tokens=9, messages=HI) as events:
                got = await events.get_final_message()
        else:
            got = await client.messages.create(model="m", max_tokens=9, messages=HI)
        with pytest.raises(anthropic.BadRequestError) as raised:
            await client.messages.create(model="m", max_tokens=9, messages=BLOCKED)
    assert got.stop_reason == "refusal"
    assert BAD not in got.to_json()
    assert raised.value.type == "invalid_request_error"
    assert MESSAGES in str(raised.value.request.url)


async def test_a_guard_that_cannot_judge_is_an_error_that_is_not_asked_again() -> None:
    async with with_openai(answering(CHAT), {"deadline_ms": 10}) as client:
        assert (await client.chat.completions.create(model="m", messages=HI)).choices[0].finish_reason == "stop"
