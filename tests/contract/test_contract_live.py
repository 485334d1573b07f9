"""Unmodified clients of every protocol, against streams that are let out while they are judged."""

from typing import Any

import anthropic
import openai
import pytest
from contract_clients import CLIENTS
from contract_protocols import OTHERS, Client
from contract_server import Running

from guardrail.asgi.gate import NOTICE

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:Item .summary. on TypedDict class .*ReadOnly. qualifier.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning"),
]

EVERY: dict[str, tuple[Client, str, str]] = {
    **{f"chat-{name}": (client, "stop", "content_filter") for name, client in CLIENTS.items()},
    **OTHERS,
}
CALM = "The garden is calm today, and the river runs slowly past the old mill. Nobody is in a hurry. \u4f60\u597d \U0001f642 again."
BAD = "The garden is calm today, and the river runs slowly past the old mill. You worthless idiot, it says, and much more after that."
each_client = pytest.mark.parametrize(("client", "ended", "withheld"), EVERY.values(), ids=EVERY)


@each_client
def test_an_allowed_stream_is_as_if_nothing_stood_between(live: Running, client: Client, ended: str, withheld: str) -> None:
    got = client(live.url, CALM, "embedded-echo", True)
    assert (got.text, got.finish) == (CALM, ended)
    assert (live.asked, live.hits) == (1, 1)


@each_client
def test_a_stream_that_is_cut_off_keeps_what_was_told_and_says_why_it_ended(
    live: Running, client: Client, ended: str, withheld: str
) -> None:
    got = client(live.url, BAD, "embedded-echo", True)
    assert got.finish == withheld
    assert BAD.startswith(got.text)
    assert len(got.text) > 0
    assert "idiot" not in got.text or b"idiot" in live.sent  # under `watch` it may be out
    assert (live.asked, live.hits) == (1, 1)


@each_client
def test_a_stream_that_is_blocked_from_its_start_says_so(live: Running, client: Client, ended: str, withheld: str) -> None:
    got = client(live.url, "worthless idiot", "embedded-echo", True)
    assert got.finish == withheld
    assert got.text in (NOTICE, "worthless idiot"[: len(got.text)])


def test_tools_are_called_when_all_of_the_call_was_judged(live: Running) -> None:
    tools: Any = [{"name": "search", "input_schema": {"type": "object"}}]
    with anthropic.Anthropic(base_url=live.url.removesuffix("/v1"), api_key="none", max_retries=0) as client:
        asked: Any = {"model": "embedded-tools", "max_tokens": 9, "tools": tools, "messages": [{"role": "user", "content": "ducks"}]}
        with client.messages.stream(**asked) as events:
            message: Any = events.get_final_message()
        assert (message.content[0].name, message.content[0].input, message.stop_reason) == ("search", {"query": "ducks"}, "tool_use")
        asked["messages"] = [{"role": "user", "content": "worthless idiot"}]
        with client.messages.stream(**asked) as events:
            assert events.get_final_message().stop_reason == "refusal"
    functions: Any = [{"type": "function", "name": "search", "parameters": {"type": "object", "properties": {}}, "strict": False}]
    with openai.OpenAI(base_url=live.url, api_key="none", max_retries=2) as other:
        with other.responses.stream(model="embedded-tools", input="ducks", tools=functions) as told:
            response: Any = told.get_final_response()
        assert (response.output[0].name, response.output[0].arguments) == ("search", '{"query": "ducks"}')
        last: Any = list(other.responses.create(model="embedded-tools", input="worthless idiot", tools=functions, stream=True))[-1]
        assert last.response.incomplete_details.reason == "content_filter"
    assert b"worthless" not in bytes(live.tap.sent)
