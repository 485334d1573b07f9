"""The embedded upstream in this process and behind uvicorn: the same bytes, OpenAI's shapes, each scenario by its model's name."""

import asyncio
import json

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from guardrail.errors import UpstreamError
from guardrail.upstream.answer import Limits, Timeouts
from guardrail.upstream.client import UpstreamClient
from guardrail.upstream.embedded import MODELS, EmbeddedUpstream
from guardrail.upstream.in_process import InProcessUpstream
from guardrail.upstream.script import INSULT
from guardrail.wire.chat_stream import ChatStreamCollector
from guardrail.wire.dialects import DIALECTS

CHAT = "/v1/chat/completions"
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]


def body(model="embedded-echo", text="hello there", **fields):
    return json.dumps({"model": model, "messages": [{"role": "user", "content": text}], **fields}).encode()


async def fetch(upstream, raw, path=CHAT, method="POST"):
    async with upstream.send(method, path, [("content-type", "application/json")], raw) as answer:
        return answer.status, dict(answer.headers), await answer.read()


@pytest.fixture(params=["in process", "uvicorn"])
async def upstream(request, serve):
    """The embedded upstream both ways; `app` is the app behind it."""
    app = EmbeddedUpstream(delay_s=0.05)
    made = UpstreamClient(await serve(app) + "/v1") if request.param == "uvicorn" else InProcessUpstream(app)
    made.app = app
    yield made
    await made.aclose()


async def test_a_whole_answer_has_openais_shape(upstream):
    status, headers, raw = await fetch(upstream, body(n=2))
    completion = ChatCompletion.model_validate_json(raw)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert [choice.message.content for choice in completion.choices] == ["hello there", "hello there"]
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens == 6


@pytest.mark.parametrize("model", ["embedded-echo", "embedded-chat", "embedded-tools", "embedded-mixed", "embedded-violating", "gpt-4o"])
async def test_a_stream_says_what_the_whole_answer_says(upstream, model):
    fields = {"n": 2, "tools": TOOLS}
    _, _, whole = await fetch(upstream, body(model, **fields))
    _, headers, streamed = await fetch(upstream, body(model, stream=True, stream_options={"include_usage": True}, **fields))
    collector = ChatStreamCollector()
    collector.receive(streamed)
    collector.finish()
    read = DIALECTS[CHAT].parse_answer(whole)
    assert headers["content-type"].startswith("text/event-stream")
    assert collector.done
    assert collector.parts() == read.parts
    assert (collector.usage, collector.finish_reasons) == (read.usage, read.finish_reasons)
    for frame in streamed.split(b"\n\n")[:-2]:
        ChatCompletionChunk.model_validate_json(frame.removeprefix(b"data: "))


async def test_no_usage_frame_unless_it_is_asked_for(upstream):
    assert b"usage" not in (await fetch(upstream, body(stream=True)))[2]


async def test_tools_are_called_with_arguments_that_parse(upstream):
    message = json.loads((await fetch(upstream, body("embedded-tools", 'a "quoted" word', tools=TOOLS)))[2])["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"][0]["function"]["name"] == "weather"
    assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"query": 'a "quoted" word'}


async def test_violating_and_mixed_insult_where_they_should(upstream):
    def said(raw):
        return [choice["message"]["content"] for choice in json.loads(raw)["choices"]]

    assert said((await fetch(upstream, body("embedded-violating")))[2]) == [INSULT]
    friendly, insulting = said((await fetch(upstream, body("embedded-mixed")))[2])
    assert (friendly == INSULT, insulting) == (False, INSULT)


async def test_small_talk_is_friendly_and_the_same_each_time(upstream):
    answers = {(await fetch(upstream, body("embedded-chat", text)))[2].split(b'"created"')[1] for text in ("hello", "hello")}
    assert len(answers) == 1
    for text in ("hi", "thanks", "what is the weather?", "why?", "a statement"):
        assert DIALECTS[CHAT].parse_answer((await fetch(upstream, body("embedded-chat", text)))[2]).parts[0].text


@pytest.mark.parametrize("status", [400, 429, 500, 503])
async def test_an_error_is_answered_with_its_status(upstream, status):
    got, _, raw = await fetch(upstream, body(f"embedded-error-{status}"))
    assert got == status
    assert set(json.loads(raw)["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("stream", [False, True])
async def test_garbage_is_garbage(upstream, stream):
    status, _, raw = await fetch(upstream, body("embedded-garbage", stream=stream))
    assert status == 200
    with pytest.raises(UpstreamError) as caught:
        ChatStreamCollector().receive(raw) if stream else DIALECTS[CHAT].parse_answer(raw)
    assert caught.value.code == "malformed"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_disconnect_breaks_off_after_some_bytes(upstream, stream):
    got = []

    async def read():
        async with upstream.send("POST", CHAT, [], body("embedded-disconnect", stream=stream)) as answer:
            async for chunk in answer.chunks():
                got.append(chunk)  # noqa: PERF401  (what came before the error counts)

    with pytest.raises(UpstreamError) as caught:
        await read()
    assert caught.value.code == "disconnect"
    assert got
    assert b"[DONE]" not in b"".join(got)


async def test_slow_sends_piece_by_piece_and_can_be_left(upstream):
    async with asyncio.timeout(2), upstream.send("POST", CHAT, [], body("embedded-slow", stream=True)) as answer:
        assert b"assistant" in await anext(answer.chunks())


async def test_hits_count_completions_only(upstream):
    await fetch(upstream, body())
    await fetch(upstream, body("embedded-error-500"))
    await fetch(upstream, b"", "/v1/models", "GET")
    assert upstream.app.hits == 2
    if isinstance(upstream, InProcessUpstream):  # a client's root is /v1
        assert json.loads((await fetch(upstream, b"", "/__stats__", "GET"))[2]) == {"hits": 2}


async def test_models_are_listed(upstream):
    _, _, raw = await fetch(upstream, b"", "/v1/models", "GET")
    assert [model["id"] for model in json.loads(raw)["data"]] == list(MODELS)


@pytest.mark.parametrize("raw", [b"{", b"[]", b'{"model":"m"}'])
async def test_a_bad_request_is_a_400(upstream, raw):
    assert (await fetch(upstream, raw))[0] == 400


async def test_an_unmodified_client_talks_to_it(serve):
    async with openai.AsyncOpenAI(api_key="k", base_url=await serve(EmbeddedUpstream()) + "/v1", max_retries=0) as client:
        messages = [{"role": "user", "content": "hello there"}]
        whole = await client.chat.completions.create(model="embedded-echo", messages=messages)
        stream = await client.chat.completions.create(model="embedded-echo", messages=messages, stream=True)
        said = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert whole.choices[0].message.content == "".join(said) == "hello there"


async def test_in_process_limits_and_timeouts_hold():
    app = EmbeddedUpstream(delay_s=5)
    with pytest.raises(UpstreamError) as caught:
        await fetch(InProcessUpstream(app, timeouts=Timeouts(read_s=0.02)), body("embedded-slow"))
    assert caught.value.code == "timeout"
    with pytest.raises(UpstreamError) as caught:
        await fetch(InProcessUpstream(app, limits=Limits(answer_bytes=100)), body())
    assert caught.value.code == "too_large"


async def test_in_process_leaving_and_cancelling_end_the_app():
    ended = []

    async def endless(scope, receive, send):
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
        finally:
            ended.append(1)

    async def silent(scope, receive, send):
        try:
            await receive()
            await receive()
        finally:
            ended.append(1)

    async with InProcessUpstream(endless).send("POST", CHAT, [], b"") as answer:
        assert await anext(answer.chunks()) == b"x"
    assert ended == [1]
    task = asyncio.ensure_future(fetch(InProcessUpstream(silent), b""))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [1, 1]


@pytest.mark.parametrize(("app_waits", "reader_waits"), [(0.0, 0.0), (0.01, 0.0), (0.0, 0.01)])
async def test_in_process_the_last_message_is_never_lost(app_waits, reader_waits):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for more in (True, False):
            await asyncio.sleep(app_waits)
            await send({"type": "http.response.body", "body": b"x", "more_body": more})

    async with InProcessUpstream(app).send("POST", CHAT, [], b"") as answer:
        got = []
        async for chunk in answer.chunks():
            got.append(chunk)
            await asyncio.sleep(reader_waits)
    assert got == [b"x", b"x"]


@pytest.mark.parametrize("started", [False, True])
async def test_in_process_an_app_that_fails_is_a_disconnect(started):
    async def failing(scope, receive, send):
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("broken")

    with pytest.raises(UpstreamError) as caught:
        await fetch(InProcessUpstream(failing), b"")
    assert caught.value.code == "disconnect"
