"""Unmodified clients of every other guarded protocol, and of the check endpoints, against the running proxy."""

import asyncio
from typing import Any

import anthropic
import openai
import pytest
from contract_protocols import OTHERS, Client
from contract_server import Running
from litellm.proxy.guardrails.guardrail_hooks.generic_guardrail_api import GenericGuardrailAPI

from guardrail.asgi.gate import NOTICE
from guardrail.upstream.script import INSULT

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:Item .summary. on TypedDict class .*ReadOnly. qualifier.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning"),
]

each_way = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
each_client = pytest.mark.parametrize(("client", "ended", "withheld"), OTHERS.values(), ids=OTHERS)


@each_way
@each_client
def test_an_allowed_exchange_is_as_if_nothing_stood_between(
    running: Running, client: Client, ended: str, withheld: str, stream: bool
) -> None:
    got = client(running.url, "Say hello", "embedded-echo", stream)
    assert (got.text, got.finish) == ("Say hello", ended)
    assert (running.asked, running.hits) == (1, 1)


@each_way
@each_client
def test_a_blocked_prompt_is_a_bad_request_asked_once_and_the_model_is_never_asked(
    running: Running, client: Client, ended: str, withheld: str, stream: bool
) -> None:
    with pytest.raises((openai.BadRequestError, anthropic.BadRequestError)):
        client(running.url, INSULT, "embedded-echo", stream)
    assert (running.asked, running.hits) == (1, 0)
    assert b"idiot" not in running.sent


@each_way
@each_client
def test_a_blocked_answer_is_withheld_and_nothing_of_it_is_sent(
    running: Running, client: Client, ended: str, withheld: str, stream: bool
) -> None:
    got = client(running.url, "What do you think of me?", "embedded-violating", stream)
    assert (got.text, got.finish) == (NOTICE, withheld)
    assert (running.asked, running.hits) == (1, 1)
    for word in (b"worthless", b"idiot", b"despises"):
        assert word not in running.sent


def test_anthropics_client_runs_a_tool_and_sees_what_kind_of_error_it_got(running: Running) -> None:
    tools: Any = [{"name": "search", "input_schema": {"type": "object"}}]
    with anthropic.Anthropic(base_url=running.url.removesuffix("/v1"), api_key="none", max_retries=0) as client:
        for stream in (False, True):
            asked: Any = {"model": "embedded-tools", "max_tokens": 9, "tools": tools, "messages": [{"role": "user", "content": "ducks"}]}
            if stream:
                with client.messages.stream(**asked) as events:
                    whole: Any = events.get_final_message()
            else:
                whole = client.messages.create(**asked)
            assert (whole.content[0].name, whole.content[0].input, whole.stop_reason) == ("search", {"query": "ducks"}, "tool_use")
        with pytest.raises(anthropic.NotFoundError):
            client.messages.count_tokens(model="m", messages=[{"role": "user", "content": "x"}])


def test_openais_client_calls_a_function_by_the_responses_api_and_cannot_hide_turns(running: Running) -> None:
    tools: Any = [{"type": "function", "name": "search", "parameters": {"type": "object", "properties": {}}, "strict": False}]
    with openai.OpenAI(base_url=running.url, api_key="none", max_retries=2) as client:
        whole: Any = client.responses.create(model="embedded-tools", input="ducks", tools=tools)
        assert (whole.output[0].name, whole.output[0].arguments) == ("search", '{"query": "ducks"}')
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(model="embedded-echo", input="and now?", previous_response_id="resp_1")
        assert refused.value.param == "previous_response_id"
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve("resp_1")


def test_embeddings_are_made_of_judged_inputs_only(running: Running) -> None:
    with openai.OpenAI(base_url=running.url, api_key="none", max_retries=2) as client:
        made = client.embeddings.create(model="embedded-chat", input=["one two", "three"], encoding_format="float")
        assert [item.embedding for item in made.data] == [[7.0, 2.0], [5.0, 1.0]]
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(model="embedded-chat", input=["one", INSULT])
    assert running.hits == 1


def test_moderations_are_our_policies(running: Running) -> None:
    with openai.OpenAI(base_url=running.url, api_key="none", max_retries=2) as client:
        results = client.moderations.create(input=["hello", INSULT], model="omni-moderation-latest").results
    assert [result.flagged for result in results] == [False, True]
    assert results[1].categories.to_dict()["harassment"] is True
    assert results[1].category_scores.to_dict()["harassment"] == 0.97
    assert running.hits == 0


def test_litellms_proxy_is_told_to_block_and_to_pass(running: Running) -> None:
    async def apply(text: str, kind: Any) -> Any:
        guardrail = GenericGuardrailAPI(api_base=running.url.removesuffix("/v1"), guardrail_name="ours", event_hook="pre_call")
        return await guardrail.apply_guardrail(inputs={"texts": [text]}, request_data={"model": "m"}, input_type=kind)

    for kind in ("request", "response"):
        assert asyncio.run(apply("hello", kind))["texts"] == ["hello"]
        with pytest.raises(Exception, match="Blocked by content policy"):
            asyncio.run(apply(INSULT, kind))
    assert running.hits == 0
