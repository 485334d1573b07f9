"""The litellm upstream: real litellm, talking to the embedded upstream on loopback through its `openai/` provider."""

import asyncio
import json
import os
import subprocess
import sys

import pytest
from openai.types.chat import ChatCompletion

from guardrail.errors import UpstreamError
from guardrail.upstream.answer import Limits, Timeouts
from guardrail.upstream.embedded import EmbeddedUpstream
from guardrail.upstream.translate import LitellmUpstream, frames
from guardrail.wire.chat_stream import ChatStreamCollector
from guardrail.wire.dialects import DIALECTS

CHAT = "/v1/chat/completions"

# litellm turns its own deprecation warnings, were they errors, into answers of status 500
pytestmark = pytest.mark.filterwarnings("ignore")


def body(model="embedded-echo", **fields):
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "hello there"}], **fields}).encode()


async def fetch(upstream, raw, path=CHAT, method="POST"):
    async with upstream.send(method, path, [("authorization", "Bearer client")], raw) as answer:
        return answer.status, dict(answer.headers), await answer.read()


@pytest.fixture
async def embedded(serve):
    app = EmbeddedUpstream(delay_s=1.0)
    app.address = await serve(app) + "/v1"
    return app


def through(embedded, **settings):
    return LitellmUpstream("openai/", api_key="k", api_base=embedded.address, **settings)


async def test_a_whole_answer_comes_in_openais_shape(embedded):
    status, headers, raw = await fetch(through(embedded), body(n=2))
    assert (status, headers) == (200, {"content-type": "application/json"})
    assert [part.text for part in DIALECTS[CHAT].parse_answer(raw).parts] == ["hello there", "hello there"]
    assert ChatCompletion.model_validate_json(raw).usage.total_tokens == 6
    assert embedded.hits == 1


@pytest.mark.parametrize("model", ["embedded-echo", "embedded-tools"])
async def test_a_stream_says_what_the_whole_answer_says(embedded, model):
    upstream = through(embedded)
    _, _, whole = await fetch(upstream, body(model))
    _, headers, streamed = await fetch(upstream, body(model, stream=True, stream_options={"include_usage": True}))
    collector = ChatStreamCollector()
    collector.receive(streamed)
    collector.finish()
    assert headers["content-type"].startswith("text/event-stream")
    assert collector.done
    assert [part.text for part in collector.parts()] == [part.text for part in DIALECTS[CHAT].parse_answer(whole).parts]
    assert collector.usage["total_tokens"] > 0


def test_a_chunk_with_usage_keeps_what_its_choices_say():
    usage = {"total_tokens": 3}
    for choice in ({"index": 0, "delta": {"content": "tail"}}, {"index": 0, "finish_reason": "stop"}):
        first, last = frames({"id": "c", "choices": [choice], "usage": usage})
        assert first == {"id": "c", "choices": [{"delta": {}, "finish_reason": None} | choice]}
        assert last == {"id": "c", "choices": [], "usage": usage}
    assert list(frames({"id": "c", "choices": [{"index": 0, "delta": {}}], "usage": usage})) == [last]
    assert list(frames({"id": "c", "choices": [choice]})) == [first]


@pytest.mark.parametrize("prefix", ["", "anthropic", "/", "/anthropic/"])
def test_a_prefix_that_does_not_name_the_provider_is_refused(prefix):
    with pytest.raises(ValueError, match="anthropic/"):
        LitellmUpstream(prefix)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [401, 429, 500])
async def test_a_providers_error_keeps_its_status_and_is_not_retried(embedded, status, stream):
    got, _, raw = await fetch(through(embedded), body(f"embedded-error-{status}", stream=stream))
    assert (got, json.loads(raw)["error"]["code"]) == (status, f"provider_{status}")
    assert embedded.hits == 1


async def test_a_client_can_choose_neither_address_nor_key_nor_a_mock(embedded):
    raw = body(api_base="http://127.0.0.1:9/v1", base_url="http://127.0.0.1:9", api_key="x", mock_response="mocked", fallbacks=["other"])
    assert [part.text for part in DIALECTS[CHAT].parse_answer((await fetch(through(embedded), raw))[2]).parts] == ["hello there"]
    assert embedded.hits == 1


async def test_silence_is_a_timeout_and_nobody_there_a_disconnect(embedded):
    with pytest.raises(UpstreamError) as caught:
        await fetch(through(embedded, timeouts=Timeouts(read_s=0.3)), body("embedded-slow"))
    assert caught.value.code == "timeout"
    with pytest.raises(UpstreamError) as caught:
        await fetch(LitellmUpstream("openai/", api_key="k", api_base="http://127.0.0.1:9/v1"), body())
    assert caught.value.code == "disconnect"


async def test_a_long_answer_is_too_large(embedded):
    with pytest.raises(UpstreamError) as caught:
        await fetch(through(embedded, limits=Limits(answer_bytes=100)), body())
    assert caught.value.code == "too_large"


async def test_a_stream_can_be_left_and_cancelled(embedded):
    upstream = through(embedded)
    async with upstream.send("POST", CHAT, [], body(stream=True)) as answer:
        assert (await anext(answer.chunks())).startswith(b"data: ")
    task = asyncio.ensure_future(fetch(upstream, body("embedded-slow", stream=True)))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_only_chat_completions_are_translated(embedded):
    assert (await fetch(through(embedded), b"", "/v1/models", "GET"))[0] == 404
    assert embedded.hits == 0


async def test_litellm_is_kept_from_fetching_its_price_list(embedded):
    await through(embedded).load()
    assert os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] == "True"


def test_making_the_upstream_does_not_import_litellm():
    program = (
        "import sys; from guardrail.upstream.translate import LitellmUpstream; LitellmUpstream('a/'); sys.exit('litellm' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_without_the_extra_the_error_says_what_to_install():
    program = (
        "import importlib.util, sys\n"
        "sys.modules['litellm'] = None\n"
        "from guardrail.errors import GuardrailError\n"
        "from guardrail.upstream.translate import LitellmUpstream\n"
        "try:\n"
        "    LitellmUpstream('a/')\n"
        "except GuardrailError as error:\n"
        "    sys.exit('guardrail[litellm]' not in str(error))\n"
        "sys.exit(2)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
