"""Unmodified OpenAI, LangChain and LiteLLM clients against the running proxy."""

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

import litellm
import openai
import pytest
from contract_clients import CLIENTS, HELPERS, Client
from contract_server import Running

from guardrail.asgi.gate import NOTICE
from guardrail.upstream.script import INSULT

pytestmark = pytest.mark.filterwarnings(
    # litellm's own models: how it declares them, and what it hands to pydantic
    r"ignore:Item .summary. on TypedDict class .*ReadOnly. qualifier.*:UserWarning",
)

each_client = pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
each_helper = pytest.mark.parametrize("client", HELPERS.values(), ids=HELPERS)
every_client = pytest.mark.parametrize("client", [*CLIENTS.values(), *HELPERS.values()], ids=[*CLIENTS, *HELPERS])
each_way = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@each_way
@every_client
def test_an_allowed_exchange_is_as_if_nothing_stood_between(running: Running, client: Client, stream: bool) -> None:
    got = client(running.url, "Say hello", "embedded-echo", stream)
    assert (got.text, got.finish) == ("Say hello", "stop")
    assert (running.asked, running.hits) == (1, 1)


@each_way
@every_client
def test_a_blocked_prompt_is_a_bad_request_asked_once_and_the_model_is_never_asked(running: Running, client: Client, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client(running.url, INSULT, "embedded-echo", stream)
    assert raised.value.code == "content_filter"
    if client is CLIENTS["litellm"]:
        assert isinstance(raised.value, litellm.ContentPolicyViolationError)
    assert (running.asked, running.hits) == (1, 0)
    assert b"idiot" not in running.sent


@each_way
@each_client
def test_a_blocked_answer_is_a_content_filter_and_nothing_of_it_is_sent(running: Running, client: Client, stream: bool) -> None:
    got = client(running.url, "What do you think of me?", "embedded-violating", stream)
    assert (got.text, got.finish) == (NOTICE, "content_filter")
    assert (running.asked, running.hits) == (1, 1)
    for word in (b"worthless", b"idiot", b"despises"):
        assert word not in running.sent


@each_way
@each_helper
def test_a_helper_raises_for_a_blocked_answer_and_nothing_of_it_is_sent(running: Running, client: Client, stream: bool) -> None:
    with pytest.raises(openai.ContentFilterFinishReasonError):
        client(running.url, "What do you think of me?", "embedded-violating", stream)
    assert (running.asked, running.hits) == (1, 1)
    assert b"idiot" not in running.sent


@pytest.fixture
def client(running: Running) -> Any:
    with openai.OpenAI(base_url=running.url, api_key="none", max_retries=2) as made:
        yield made


HI: Any = [{"role": "user", "content": "hi"}]


def test_one_bad_choice_of_two_is_replaced_alone(running: Running, client: openai.OpenAI) -> None:
    choices = client.chat.completions.create(model="embedded-mixed", messages=HI, n=2).choices
    assert [choice.finish_reason for choice in choices] == ["stop", "content_filter"]
    assert choices[0].message.content
    assert choices[0].message.content.startswith("Hello!")
    assert choices[1].message.content == NOTICE
    assert b"idiot" not in running.sent


def test_one_bad_choice_of_two_is_replaced_alone_in_a_stream(running: Running, client: openai.OpenAI) -> None:
    texts: dict[int, str] = {0: "", 1: ""}
    finish: dict[int, str] = {}
    for chunk in client.chat.completions.create(model="embedded-mixed", messages=HI, n=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                finish[choice.index] = choice.finish_reason
    assert finish == {0: "stop", 1: "content_filter"}
    assert texts[0].startswith("Hello!")
    assert texts[1] == NOTICE
    assert b"idiot" not in running.sent


TOOLS: Any = [
    {"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {"query": {"type": "string"}}}}}
]


def test_a_tool_call_passes_whole(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "find the library"}]
    choice = client.chat.completions.create(model="embedded-tools", messages=messages, tools=TOOLS).choices[0]
    assert choice.message.tool_calls
    call: Any = choice.message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("search", {"query": "find the library"})


def test_the_streaming_helper_works_on_an_allowed_and_on_a_blocked_answer(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="embedded-chat", messages=HI) as events:
        assert events.get_final_completion().choices[0].finish_reason == "stop"
    with client.chat.completions.stream(model="embedded-violating", messages=HI) as events:
        with pytest.raises(openai.ContentFilterFinishReasonError):
            events.get_final_completion()


def test_usage_is_kept_in_a_blocked_stream_that_asked_for_it(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    chunks = list(client.chat.completions.create(model="embedded-violating", messages=HI, stream=True, stream_options=options))
    assert chunks[-1].usage
    assert chunks[-1].usage.total_tokens > 0


def test_an_upstream_that_breaks_off_raises_and_is_not_asked_again(running: Running, client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError) as raised:
            list(client.chat.completions.create(model="embedded-disconnect", messages=HI, stream=stream))
        assert raised.value.status_code == 502
    assert (running.asked, running.hits) == (2, 2)


def test_models_can_be_listed(client: openai.OpenAI) -> None:
    assert "embedded-echo" in [model.id for model in client.models.list()]


def test_the_raw_bytes_of_an_allowed_answer_are_the_upstreams(running: Running) -> None:
    parts = urlsplit(running.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 0)
    body = json.dumps({"model": "embedded-echo", "messages": [{"role": "user", "content": "a  b"}]})
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    assert response.getheader("content-length") == str(len(content))
    assert json.loads(content)["choices"][0]["message"]["content"] == "a  b"
    assert response.getheader("x-guardrail-decision") == "allow"
