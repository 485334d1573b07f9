"""Group 2: whoever is said to speak, and in whichever field, is judged."""

import json
from typing import Any

import pytest
from asgi_cases import BAD, completion
from threat_cases import CHAT, MESSAGES, RESPONSES, refused, told

HI = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    "role", ["system", "developer", "user", "assistant", "tool", "function", "narrator", "System", "", None, 7, "missing"]
)
@pytest.mark.parametrize("place", ["first", "last"])
async def test_a_message_of_any_role_is_judged(role: Any, place: str) -> None:
    message: dict[str, Any] = {"content": BAD, "tool_call_id": "t"}
    if role != "missing":
        message["role"] = role
    messages = [message, HI] if place == "first" else [HI, message]
    await refused(CHAT, {"model": "m", "messages": messages})


async def test_an_assistants_beginning_is_judged() -> None:
    await refused(CHAT, {"model": "m", "messages": [HI, {"role": "assistant", "content": BAD}]})
    await refused(MESSAGES, {"model": "m", "max_tokens": 9, "messages": [HI, {"role": "assistant", "content": BAD}]})
    await refused(RESPONSES, {"model": "m", "input": [HI, {"role": "assistant", "content": BAD}]})


@pytest.mark.parametrize(
    "message",
    [
        pytest.param({"role": "user", "content": "hi", "name": BAD}, id="name"),
        pytest.param({"role": BAD, "content": "hi"}, id="role"),
        pytest.param({"role": "assistant", "content": None, "refusal": BAD}, id="refusal"),
        pytest.param({"role": "assistant", "content": "hi", "reasoning_content": BAD}, id="reasoning_content"),
        pytest.param({"role": "assistant", "content": "hi", "annotations": [{"url_citation": {"title": BAD}}]}, id="annotations"),
        pytest.param({"role": "user", "content": "hi", "brand_new": {"deep": [{"x": BAD}]}}, id="an unknown field"),
        pytest.param({"role": "user", "content": "hi", BAD: 1}, id="the name of a field"),
    ],
)
async def test_each_field_of_a_message_is_judged(message: Any) -> None:
    await refused(CHAT, {"model": "m", "messages": [message]})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (MESSAGES, {"model": "m", "max_tokens": 9, "messages": [HI], "system": BAD}),
        (MESSAGES, {"model": "m", "max_tokens": 9, "messages": [HI], "system": [{"type": "text", "text": BAD}]}),
        (MESSAGES, {"model": "m", "max_tokens": 9, "messages": [{"role": "system", "content": BAD}]}),
        (RESPONSES, {"model": "m", "input": "hi", "instructions": BAD}),
        (RESPONSES, {"model": "m", "input": [{"role": "developer", "content": BAD}]}),
        (RESPONSES, {"model": "m", "input": [{"role": "narrator", "content": BAD}]}),
    ],
)
async def test_what_the_application_says_itself_is_judged(path: str, body: Any) -> None:
    await refused(path, body)


OUTPUT: dict[str, dict[str, Any]] = {
    "refusal": {"content": None, "refusal": BAD},
    "reasoning_content": {"content": "fine", "reasoning_content": BAD},
    "reasoning": {"content": "fine", "reasoning": BAD},
    "reasoning_details": {"content": "fine", "reasoning_details": [{"type": "reasoning.text", "text": BAD}]},
    "annotations": {
        "content": "fine",
        "annotations": [{"type": "url_citation", "url_citation": {"title": BAD, "url": "https://x.example"}}],
    },
    "name": {"content": "fine", "name": BAD},
    "role": {"content": "fine", "role": BAD},
    "unknown": {"content": "fine", "brand_new": [{"deep": BAD}]},
}


@pytest.mark.parametrize("field", OUTPUT)
@pytest.mark.parametrize("mode", ["hold", "window"])
async def test_each_field_of_an_answer_is_judged(field: str, mode: str) -> None:
    message = {"role": "assistant", **OUTPUT[field]}
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    frames = [{**head, "choices": [{"index": 0, "delta": message, "finish_reason": None}]}]
    frames += [{**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]
    streamed = b"".join(b"data: " + json.dumps(frame).encode() + b"\n\n" for frame in frames) + b"data: [DONE]\n\n"
    whole = json.loads(completion("fine"))
    whole["choices"][0]["message"] = message
    for body in (json.dumps(whole).encode(), streamed):
        got = await told(CHAT, [body], {"stream": {"mode": mode}, "path": CHAT})
        assert BAD not in got.text
        assert "content_filter" in got.text
