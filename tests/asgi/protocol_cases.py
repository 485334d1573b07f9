"""One exchange in each guarded protocol, in the shapes of the public API references."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from asgi_cases import completion, stream

DONE = b"data: [DONE]\n\n"
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def frames(*documents: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(document).encode() + b"\n\n" for document in documents)


def openai_error(document: Any) -> None:
    assert set(document["error"]) >= {"message", "type", "param", "code"}


def said(text: str) -> list[Any]:
    """The documents of a stream."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@dataclass(frozen=True)
class Protocol:
    """How it is asked, how an upstream answers, and what a client must find when it was blocked."""

    path: str
    request: Callable[[str, bool], dict[str, Any]]
    answer: Callable[[str], bytes]
    stream: Callable[[str], bytes] = lambda text: b""
    check_blocked: Callable[[str, bool], None] = lambda text, stream: None
    check_error: Callable[[Any], None] = openai_error
    unreadable: Sequence[dict[str, Any]] = ()
    streams: bool = True
    generates: bool = True
    whole_before: Callable[[bytes], bool] = lambda stream: b"[DONE]" in stream or b'"finish_reason": "stop"}' in stream


def chat_request(text: str, streamed: bool) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], "stream": streamed}


def finished(text: str, streamed: bool) -> None:
    documents = said(text) if streamed else [json.loads(text)]
    reasons = [choice["finish_reason"] for document in documents for choice in document["choices"] if choice["finish_reason"]]
    assert reasons == ["content_filter"]


CHAT = Protocol(
    "/v1/chat/completions",
    chat_request,
    completion,
    lambda text: b"".join(stream(*text)),
    finished,
    unreadable=[{"model": "m", "messages": [{"role": "user", "content": [IMAGE]}]}],
)

COMPLETION = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}


def text_choice(text: str, reason: str | None) -> dict[str, Any]:
    return {**COMPLETION, "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": reason}]}


def finished_text(text: str, streamed: bool) -> None:
    documents = said(text) if streamed else [json.loads(text)]
    reasons = {choice["finish_reason"] for document in documents for choice in document["choices"]}
    assert reasons == {"content_filter"}


COMPLETIONS = Protocol(
    "/v1/completions",
    lambda text, streamed: {"model": "m", "prompt": ["hi", text], "stream": streamed},
    lambda text: json.dumps(
        {**text_choice(text, "stop"), "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
    ).encode(),
    lambda text: frames(*(text_choice(piece, None) for piece in text), text_choice("", "stop")) + DONE,
    finished_text,
    unreadable=[{"model": "m", "prompt": [1, 2, 3]}, {"model": "m", "prompt": [[1], [2]]}],
)


EMBEDDINGS = Protocol(
    "/v1/embeddings",
    lambda text, streamed: {"model": "m", "input": ["hi", text]},
    lambda text: json.dumps(
        {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 1.0]}], "model": "m", "usage": {}}
    ).encode(),
    unreadable=[{"model": "m", "input": [1, 2, 3]}],
    streams=False,
    generates=False,
)

MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_sequence": None}
COUNTED = {"input_tokens": 3, "output_tokens": 1}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}}


def message_events(text: str) -> bytes:
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None, "usage": COUNTED}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}} for piece in text),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ]
    return named(events)


def named(events: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


def message_refused(text: str, streamed: bool) -> None:
    if not streamed:
        assert json.loads(text)["stop_reason"] == "refusal"
        return
    events = said(text)
    assert [event["type"] for event in events] == [
        "message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
    assert events[-2]["delta"]["stop_reason"] == "refusal"


def message_error(document: Any) -> None:
    assert document["type"] == "error"
    assert set(document["error"]) >= {"type", "message"}


MESSAGES = Protocol(
    "/v1/messages",
    lambda text, streamed: {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": text}], "stream": streamed},
    lambda text: json.dumps({**MESSAGE, "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "usage": COUNTED}).encode(),
    message_events,
    message_refused,
    message_error,
    unreadable=[
        {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": [PDF]}]},
        {
            "model": "m",
            "max_tokens": 9,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "t",
                            "content": [{"type": "image", "source": {"type": "url", "url": "http://x"}}],
                        }
                    ],
                }
            ],
        },
    ],
    whole_before=lambda stream: b"message_stop" in stream,
)

RESPONSE = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "error": None, "incomplete_details": None}


def whole_response(text: str, status: str = "completed") -> dict[str, Any]:
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [
        {"type": "output_text", "text": text, "annotations": []}]}  # fmt: skip
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    return {**RESPONSE, "status": status, "output": [item] if status == "completed" else [], "usage": usage}


def response_events(text: str) -> bytes:
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    item = whole_response(text)["output"][0]
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": whole_response("", "in_progress")},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
        {"type": "response.content_part.added", **place, "part": {"type": "output_text", "text": "", "annotations": []}},
        *({"type": "response.output_text.delta", **place, "delta": piece, "logprobs": [], "obfuscation": "aZ"} for piece in text),
        {"type": "response.output_text.done", **place, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": item["content"][0]},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": whole_response(text)},
    ]
    return named([{**event, "sequence_number": number} for number, event in enumerate(events)])


def response_refused(text: str, streamed: bool) -> None:
    events = said(text) if streamed else [{"type": "response.incomplete", "response": json.loads(text)}]
    last = events[-1]["response"]
    assert (events[-1]["type"], last["status"]) == ("response.incomplete", "incomplete")
    assert last["incomplete_details"] == {"reason": "content_filter"}
    assert last["output"][0]["content"][0]["text"]


RESPONSES = Protocol(
    "/v1/responses",
    lambda text, streamed: {"model": "m", "input": [{"role": "user", "content": text}], "stream": streamed},
    lambda text: json.dumps(whole_response(text)).encode(),
    response_events,
    response_refused,
    unreadable=[
        {"model": "m", "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x"}]}]},
        {"model": "m", "input": [1, 2]},
        {"model": "m", "input": [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_file", "file_id": "f"}]}]},
        {"model": "m", "input": "x", "prompt": {"id": "pmpt_1"}},
    ],
    whole_before=lambda stream: b"response.completed" in stream,
)

CASES = {"chat": CHAT, "completions": COMPLETIONS, "embeddings": EMBEDDINGS, "messages": MESSAGES, "responses": RESPONSES}
