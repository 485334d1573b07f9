"""Fields of an answer that hold names, reasons and counts: prose in them is judged, and is not in what goes out unjudged or refused."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from guardrail.types import Part
from guardrail.wire.dialect import Dialect
from guardrail.wire.dialects import DIALECTS
from guardrail.wire.messages import named_event

SAID = "you are a teapot"
USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 0}}
RESULTS = {0: {"violence": {"filtered": True, "detected": True}}}
CHAT = "/v1/chat/completions"
WHOLE: dict[str, dict[str, Any]] = {
    CHAT: {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "org/m:latest",
        "system_fingerprint": "fp_1",
        "service_tier": "default",
        "provider": "host",
        "usage": USAGE,
        "x_groq": {"id": "req_1"},
        "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False, "severity": "safe"}}}],
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop", "native_finish_reason": "STOP"}
        ],
    },
    "/v1/completions": {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1,
        "model": "m",
        "usage": USAGE,
        "choices": [{"index": 0, "text": "Hi", "finish_reason": "stop", "stop_reason": 2}],
    },
    "/v1/messages": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 1, "service_tier": "standard"},
    },
    "/v1/responses": {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": "m",
        "incomplete_details": None,
        "reasoning": {"effort": "low", "summary": None},
        "tool_choice": "auto",
        "truncation": "disabled",
        "service_tier": "default",
        "output": [
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "Hi", "annotations": []}],
            }
        ],
        "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2},
    },
}
FIELDS = {
    CHAT: ["id", "model", "system_fingerprint", "service_tier", "provider", "usage", "x_groq"],
    "/v1/completions": ["id", "model", "usage"],
    "/v1/messages": ["id", "model", "usage"],
    "/v1/responses": ["id", "model", "usage", "incomplete_details", "service_tier", "reasoning"],
}
CASES = [(path, name) for path, names in FIELDS.items() for name in names]
CHOICE = ["finish_reason", "native_finish_reason", "stop_reason", "matched_stop", "content_filter_results"]


def spoilt(path: str, name: str) -> dict[str, Any]:
    """An answer with prose in one field, which is an object where it is usually one."""
    document = WHOLE[path]
    nested = isinstance(document.get(name), dict) or name in ("usage", "incomplete_details")
    return {**document, name: {**(document.get(name) or {}), "note": SAID} if nested else SAID}


def streamed(path: str, document: dict[str, Any]) -> Iterator[bytes]:
    if "choices" in document:
        for choice in document["choices"]:
            said = {("delta" if key == "message" else key): value for key, value in choice.items()}
            yield b"data: " + json.dumps({**document, "choices": [said]}).encode() + b"\n\n"
        yield b"data: [DONE]\n\n"
    elif path == "/v1/messages":
        yield named_event({"type": "message_start", "message": {**document, "content": [], "stop_reason": None}})
        yield named_event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
        yield named_event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}})
        yield named_event({"type": "content_block_stop", "index": 0})
        usage = {"input_tokens": 2, "output_tokens": 2}
        yield named_event({"type": "message_delta", "delta": {"stop_reason": document["stop_reason"]}, "usage": usage})
        yield named_event({"type": "message_stop"})
    else:
        yield named_event({"type": "response.created", "response": {**document, "output": [], "status": "in_progress"}})
        (item,) = document["output"]
        yield named_event({"type": "response.output_item.done", "output_index": 0, "item": item})
        yield named_event({"type": "response.completed", "response": document})


def parts(dialect: Dialect, document: dict[str, Any], *, stream: bool) -> tuple[Part, ...]:
    if not stream:
        return tuple(dialect.parse_answer(json.dumps(document).encode()).parts)
    assert dialect.collector is not None
    collector = dialect.collector(1 << 20)
    for piece in streamed(dialect.path, document):
        collector.receive(piece)
    collector.finish()
    return tuple(collector.parts())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", WHOLE)
def test_names_and_counts_say_nothing(path: str, stream: bool) -> None:
    assert {part.text for part in parts(DIALECTS[path], WHOLE[path], stream=stream)} == {"Hi"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "name"), CASES)
def test_prose_in_them_is_judged(path: str, name: str, stream: bool) -> None:
    assert [part for part in parts(DIALECTS[path], spoilt(path, name), stream=stream) if SAID in (part.text or "")]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
@pytest.mark.parametrize("name", CHOICE)
def test_prose_in_a_choices_end_is_judged_with_that_choice(path: str, name: str, stream: bool) -> None:
    (choice,) = WHOLE[path]["choices"]
    document = {**WHOLE[path], "choices": [{**choice, "index": 1, name: {"x": SAID} if name.endswith("results") else SAID}]}
    found = [part for part in parts(DIALECTS[path], document, stream=stream) if SAID in (part.text or "")]
    assert {part.choice for part in found} == {1}


@pytest.mark.parametrize("stream", [False, True])
def test_prose_in_the_reason_of_a_messages_end_is_judged(stream: bool) -> None:
    document = {**WHOLE["/v1/messages"], "stop_reason": SAID}
    assert [part for part in parts(DIALECTS["/v1/messages"], document, stream=stream) if SAID in (part.text or "")]


@pytest.mark.parametrize(("path", "name"), CASES)
def test_nothing_of_it_is_in_a_refusal_or_out_before_it_is_judged(path: str, name: str) -> None:
    dialect, document = DIALECTS[path], spoilt(path, name)
    answer = dialect.parse_answer(json.dumps(document).encode())
    assert SAID.encode() not in dialect.replace_blocked(answer, RESULTS, "Withheld.")
    assert dialect.collector is not None
    assert dialect.release is not None
    collector, release = dialect.collector(1 << 20), dialect.release(1 << 20)
    out, place = [], 0
    for piece in streamed(path, document):
        collector.receive(piece)
        for said in release.receive(piece):
            place += len(said.text)
            out.append(release.text(said, place))
    collector.finish()
    assert SAID.encode() not in b"".join(collector.replaced(RESULTS, "Withheld."))
    release.finish()
    assert [part for part in release.others() if SAID in (part.text or "")]
    out += [release.refused(0, RESULTS[0], "Withheld.", released_chars=place), release.end(whole=False)]
    assert SAID.encode() not in b"".join(out)
