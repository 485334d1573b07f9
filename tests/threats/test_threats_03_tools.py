"""Group 3: what tools are called with, give back and are said to be is judged; so are the schemas of answers."""

import json
from typing import Any

import pytest
from asgi_cases import BAD, completion, config, proxied
from threat_cases import CHAT, COMPLETIONS, MESSAGES, RESPONSES, answering, counted, refused, served, told, user

ARGUMENTS = json.dumps({"q": BAD})


def call(name: str = "f", arguments: str = "{}", **fields: Any) -> dict[str, Any]:
    return {"index": 0, "id": "t1", "type": "function", "function": {"name": name, "arguments": arguments}, **fields}


CALLS: dict[str, dict[str, Any]] = {
    "arguments": {"tool_calls": [call(arguments=ARGUMENTS)]},
    "the name": {"tool_calls": [call(name=BAD)]},
    "the second of two": {"tool_calls": [call(), call(arguments=ARGUMENTS, index=1, id="t2")]},
    "arguments as an object": {"tool_calls": [call(arguments={"q": BAD})]},  # type: ignore[arg-type]
    "a custom tool": {"tool_calls": [{"index": 0, "id": "t", "type": "custom", "custom": {"name": "f", "input": BAD}}]},
    "an unknown kind of tool": {"tool_calls": [{"index": 0, "id": "t", "type": "novel", "novel": {"x": BAD}}]},
    "legacy function_call": {"function_call": {"name": "f", "arguments": ARGUMENTS}},
}


@pytest.mark.parametrize("kind", CALLS)
async def test_calls_in_the_history_are_judged(kind: str) -> None:
    await refused(CHAT, {"model": "m", "messages": [{"role": "assistant", "content": None, **CALLS[kind]}]})


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("mode", ["hold", "window", "overlap"])
async def test_calls_in_an_answer_are_judged_and_none_is_let_out(kind: str, mode: str) -> None:
    message = {"role": "assistant", "content": None, **CALLS[kind]}
    whole = json.loads(completion("x"))
    whole["choices"][0] |= {"message": message, "finish_reason": "tool_calls"}
    frames = [{"delta": message, "finish_reason": None}, {"delta": {}, "finish_reason": "tool_calls"}]
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    streamed = b"".join(b"data: " + json.dumps({**head, "choices": [{"index": 0, **f}]}).encode() + b"\n\n" for f in frames)
    for body in (json.dumps(whole).encode(), streamed + b"data: [DONE]\n\n"):
        got = await told(CHAT, [body], {"stream": {"mode": mode}, "path": CHAT})
        assert BAD not in got.text
        assert "arguments" not in got.text
        assert "content_filter" in got.text


@pytest.mark.parametrize("mode", ["hold", "window", "overlap"])
async def test_half_of_a_calls_arguments_is_never_let_out(mode: str) -> None:
    pieces = ['{"command": "', "something ", 'forbidden"}']
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    deltas: list[Any] = [{"role": "assistant", "tool_calls": [call(arguments="")]}]
    deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in pieces]
    frames = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    frames.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    sent = [b"data: " + json.dumps(frame).encode() + b"\n\n" for frame in frames] + [b"data: [DONE]\n\n"]
    got = await told(CHAT, sent, {"stream": {"mode": mode, "window": 20, "overlap": 10}, "path": CHAT})
    assert "command" not in got.text
    assert "content_filter" in got.text


RESULTS = {
    "tool": {"role": "tool", "tool_call_id": "t", "content": BAD},
    "tool, in parts": {"role": "tool", "tool_call_id": "t", "content": [{"type": "text", "text": BAD}]},
    "function": {"role": "function", "name": "f", "content": BAD},
    "name of a function": {"role": "function", "name": BAD, "content": "x"},
}


@pytest.mark.parametrize("kind", RESULTS)
async def test_what_a_tool_gave_back_is_judged(kind: str) -> None:
    await refused(CHAT, {"model": "m", "messages": [RESULTS[kind]]})


@pytest.mark.parametrize(
    "block",
    [
        {"type": "tool_use", "id": "t", "name": "f", "input": {"q": BAD}},
        {"type": "mcp_tool_use", "id": "t", "name": "f", "server_name": "s", "input": {"q": BAD}},
        {"type": "mcp_tool_result", "tool_use_id": "t", "is_error": False, "content": [{"type": "text", "text": BAD}]},
        {"type": "server_tool_use", "id": "t", "name": "web_search", "input": {"query": BAD}},
    ],
)
async def test_anthropics_tools_are_judged(block: Any) -> None:
    await refused(MESSAGES, user([block]))
    message = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [block], "stop_reason": "tool_use", "usage": {}}
    got = await told(MESSAGES, [json.dumps(message).encode()])
    assert BAD not in got.text
    assert got.json()["stop_reason"] == "refusal"


@pytest.mark.parametrize(
    "item",
    [
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": ARGUMENTS},
        {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": BAD},
        {"type": "mcp_call", "id": "m", "server_label": "s", "name": "f", "arguments": ARGUMENTS},
        {"type": "mcp_call", "id": "m", "server_label": "s", "name": "f", "arguments": "{}", "output": BAD},
        {"type": "mcp_list_tools", "id": "m", "server_label": "s", "tools": [{"name": "f", "description": BAD, "input_schema": {}}]},
    ],
)
async def test_tools_of_responses_are_judged(item: Any) -> None:
    await refused(RESPONSES, {"model": "m", "input": [item]})
    document = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "status": "completed", "output": [item]}
    got = await told(RESPONSES, [json.dumps(document).encode()])
    assert BAD not in got.text
    assert got.json()["incomplete_details"] == {"reason": "content_filter"}


DEFINED = {"name": "f", "description": BAD, "parameters": {"type": "object", "properties": {"q": {"type": "string", "description": BAD}}}}


CHOSEN = {"type": "object", "properties": {"q": {"enum": ["fine", BAD]}}}
NAMED = {"type": "object", "properties": {BAD: {"type": "string"}}, "required": [BAD]}
FORM = {"type": "json_schema", "schema": {"anyOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"type": "string", "description": BAD}}}}
SAID = pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param(CHAT, user("hi") | {"tools": [{"type": "function", "function": DEFINED}]}, id="chat"),
        pytest.param(CHAT, user("hi") | {"tools": [{"type": "function", "function": {"name": "f", "parameters": CHOSEN}}]}, id="choices"),
        pytest.param(CHAT, user("hi") | {"tools": [{"type": "function", "function": {"name": "f", "parameters": NAMED}}]}, id="names"),
        pytest.param(CHAT, user("hi") | {"functions": [DEFINED]}, id="legacy functions"),
        pytest.param(CHAT, user("hi") | {"response_format": {"type": "json_schema", "json_schema": FORM}}, id="chat schema"),
        pytest.param(COMPLETIONS, {"model": "m", "prompt": "hi", "response_format": FORM}, id="completions schema"),
        pytest.param(MESSAGES, user("hi") | {"tools": [{"name": "f", "description": BAD, "input_schema": {}}]}, id="messages"),
        pytest.param(MESSAGES, user("hi") | {"tools": [{"name": "f", "input_schema": {}, "input_examples": [{"q": BAD}]}]}, id="examples"),
        pytest.param(MESSAGES, user("hi") | {"output_format": FORM}, id="messages schema"),
        pytest.param(MESSAGES, user("hi") | {"output_config": {"format": FORM}}, id="messages configured"),
        pytest.param(RESPONSES, {"model": "m", "input": "hi", "tools": [{"type": "function", **DEFINED}]}, id="responses"),
        pytest.param(
            RESPONSES,
            {"model": "m", "input": "hi", "tools": [{"type": "namespace", "name": "n", "description": BAD, "tools": []}]},
            id="namespace",
        ),
        pytest.param(RESPONSES, {"model": "m", "input": "hi", "text": {"format": FORM}}, id="responses schema"),
    ],
)


@SAID
async def test_what_definitions_say_is_judged(path: str, body: Any) -> None:
    await refused(path, body)


@SAID
async def test_definitions_that_a_route_trusts_do_not_block(path: str, body: Any) -> None:
    await served(path, body, {"definitions": "trust"})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, user("hi") | {"tool_choice": {"type": "function", "function": {"name": BAD}}}),
        (CHAT, user("hi") | {"reasoning_effort": BAD}),
        (MESSAGES, user("hi") | {"thinking": {"type": BAD}}),
        (RESPONSES, {"model": "m", "input": "hi", "text": {"verbosity": BAD}}),
        (RESPONSES, {"model": "m", "input": "hi", "reasoning": {"effort": BAD}}),
    ],
)
async def test_words_in_settings_are_judged_whoever_is_trusted(path: str, body: Any) -> None:
    await refused(path, body, {"definitions": "trust"})


async def test_a_definition_that_was_judged_is_not_judged_again() -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "Finds books by their title."}}
    async with counted(CHAT) as (proxy, _):
        for text in ("hi", "and again"):
            await proxy.client.post(CHAT, json=user(text) | {"tools": [tool]})
        asked = [request.text for request in proxy.classifier.requests]
    assert asked.count("f\nFinds books by their title.") == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, user("hi") | {"tools": [{"type": "mcp", "server_label": "s", "server_url": "https://x.example"}]}),
        (CHAT, user("hi") | {"web_search_options": {}}),
        (MESSAGES, user("hi") | {"mcp_servers": [{"type": "url", "name": "s", "url": "https://x.example"}]}),
        (MESSAGES, user("hi") | {"tools": [{"type": "web_fetch_20260318", "name": "web_fetch"}]}),
        (RESPONSES, {"model": "m", "input": "hi", "tools": [{"type": "mcp", "server_label": "s", "server_url": "https://x.example"}]}),
        (RESPONSES, {"model": "m", "input": "hi", "tools": [{"type": "file_search", "vector_store_ids": ["v"]}]}),
    ],
)
async def test_a_tool_whose_results_never_pass_here_is_up_to_the_route(path: str, body: Any) -> None:
    await refused(path, body)
    assert (await served(path, body, {"unscannable": "pass"})).headers["x-guardrail-decision"] == "unjudged"


async def test_tools_that_are_odd_break_nothing() -> None:
    odd: list[Any] = [None, 7, "x", [], {}, {"type": None}, {"type": "function"}, {"type": "function", "function": None}]
    for tool in odd:
        upstream = answering(CHAT)
        async with proxied(config({"unscannable": "pass"}), upstream=upstream) as proxy:
            assert (await proxy.client.post(CHAT, json=user("hi") | {"tools": [tool]})).status_code == 200
            assert (await proxy.client.post(CHAT, json=user(BAD) | {"tools": [tool]})).status_code == 400
