"""What is judged of each protocol, found out by trying: a text is put into every part, and the guard's own readers are asked for it.

`judged`: it is among the parts. `unscannable`: it cannot be read as text, and the part says so. `refused`: the request or answer is not
taken. `unguarded` must never come out.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from guardrail.errors import UpstreamError, WireError
from guardrail.types import Part, Stage
from guardrail.wire.dialect import Collector, Dialect
from guardrail.wire.dialects import DIALECTS
from guardrail.wire.messages import named_event

PROBE = "quokka quokka"
PARTS = (
    *("text", "system", "name", "tool call", "tool result", "refusal", "reasoning"),
    *("tool definition", "answer schema", "image", "audio", "file", "hosted tool", "token ids", "new field"),
)
_CALL = json.dumps({"q": PROBE})
_HEAD: Mapping[str, Mapping[str, object]] = {
    "/v1/chat/completions": {"id": "c", "object": "chat.completion", "created": 1, "model": "m"},
    "/v1/completions": {"id": "c", "object": "text_completion", "created": 1, "model": "m"},
    "/v1/embeddings": {"object": "list", "model": "m"},
    "/v1/messages": {"id": "m", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn"},
    "/v1/responses": {"id": "r", "object": "response", "created_at": 1, "model": "m", "status": "completed"},
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One part of one endpoint, in one stage, whole or streamed, and what becomes of it."""

    path: str
    stage: Stage
    stream: bool
    part: str
    outcome: str


def coverage() -> tuple[Cell, ...]:
    """Every cell of every guarded protocol, in the order of the protocols and of `PARTS`."""
    return tuple(cell for dialect in DIALECTS.values() for cell in _of(dialect))


def _of(dialect: Dialect) -> Iterator[Cell]:
    for stream in (False, True) if dialect.collector is not None else (False,):
        for stage, probes in ((Stage.INPUT, REQUESTS[dialect.path]), (Stage.OUTPUT, ANSWERS[dialect.path])):
            for part in PARTS:
                if part in probes:
                    yield Cell(dialect.path, stage, stream, part, _outcome(dialect, stage, probes[part], stream=stream))


def _outcome(dialect: Dialect, stage: Stage, probe: Any, *, stream: bool) -> str:
    try:
        parts = _asked(dialect, probe, stream) if stage is Stage.INPUT else _told(dialect, probe, stream)
    except (WireError, UpstreamError):
        return "refused"
    if any(PROBE in (part.text or "") for part in parts):
        return "judged"
    return "unscannable" if any(part.text is None for part in parts) else "unguarded"


def _asked(dialect: Dialect, probe: Mapping[str, object], stream: bool) -> tuple[Part, ...]:
    body = {"model": "m", **({"stream": True} if stream else {}), **probe}
    return tuple(dialect.parse_request(json.dumps(body).encode()).parts)


def _told(dialect: Dialect, probe: Mapping[str, Any], stream: bool) -> tuple[Part, ...]:
    document = {**_HEAD[dialect.path], **probe}
    if not stream or dialect.collector is None:
        return tuple(dialect.parse_answer(json.dumps(document).encode()).parts)
    collector: Collector = dialect.collector(1 << 20)
    collector.receive(b"".join(_STREAMED[dialect.path](document)))
    collector.finish()
    return collector.parts()


def _chunks(document: Mapping[str, Any]) -> Iterator[bytes]:
    for choice in document["choices"]:
        said = {("delta" if key == "message" else key): value for key, value in choice.items()}
        yield b"data: " + json.dumps({**document, "choices": [said]}).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


def _message_events(document: Mapping[str, Any]) -> Iterator[bytes]:
    yield named_event({"type": "message_start", "message": {**document, "content": []}})
    for index, block in enumerate(document["content"]):
        yield named_event({"type": "content_block_start", "index": index, "content_block": block})
        yield named_event({"type": "content_block_stop", "index": index})
    yield named_event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}})
    yield named_event({"type": "message_stop"})


def _response_events(document: Mapping[str, Any]) -> Iterator[bytes]:
    for index, item in enumerate(document["output"]):
        yield named_event({"type": "response.output_item.done", "output_index": index, "item": item})
    yield named_event({"type": "response.completed", "response": document})


_STREAMED = {
    "/v1/chat/completions": _chunks,
    "/v1/completions": _chunks,
    "/v1/messages": _message_events,
    "/v1/responses": _response_events,
}


def _chat(**message: object) -> dict[str, object]:
    return {"messages": [{"role": "user", **message}]}


def _choice(**message: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}]}


def _text_choice(**choice: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "text": "x", "finish_reason": "stop", **choice}]}


def _blocks(*blocks: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


def _content(*blocks: object) -> dict[str, object]:
    return {"content": list(blocks)}


def _input(*items: object) -> dict[str, object]:
    return {"input": list(items)}


def _output(*items: object) -> dict[str, object]:
    return {"output": list(items)}


_FUNCTION = {"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": _CALL}}
_USE = {"type": "tool_use", "id": "t", "name": "f", "input": {"q": PROBE}}
_THOUGHT = {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": PROBE}]}
_CALLED = {"type": "function_call", "call_id": "c", "name": "f", "arguments": _CALL}
_SERVER = {"type": "mcp", "server_label": "s", "server_url": "https://x.example"}
_TOLD = {"name": "f", "description": PROBE}
_FORM = {"type": "json_schema", "schema": {"type": "object", "properties": {"q": {"description": PROBE}}}}
_DATA = {"type": "base64", "media_type": "x/y", "data": "AAAA"}

REQUESTS: Mapping[str, Mapping[str, Mapping[str, object]]] = {
    "/v1/chat/completions": {
        "text": _chat(content=[{"type": "text", "text": "x"}, {"type": "text", "text": PROBE}]),
        "system": {"messages": [{"role": "developer", "content": PROBE}]},
        "name": _chat(content="x", name=PROBE),
        "tool call": _chat(content=None, tool_calls=[_FUNCTION]),
        "tool result": {"messages": [{"role": "tool", "tool_call_id": "t", "content": PROBE}]},
        "refusal": _chat(content=None, refusal=PROBE),
        "reasoning": _chat(content="x", reasoning_content=PROBE),
        "image": _chat(content=[{"type": "image_url", "image_url": {"url": "data:x"}}]),
        "audio": _chat(content=[{"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}]),
        "file": _chat(content=[{"type": "file", "file": {"file_id": "f"}}]),
        "tool definition": {**_chat(content="x"), "tools": [{"type": "function", "function": _TOLD}]},
        "answer schema": {**_chat(content="x"), "response_format": {"type": "json_schema", "json_schema": _FORM}},
        "hosted tool": {**_chat(content="x"), "tools": [_SERVER]},
        "token ids": {**_chat(content="x"), "prompt_token_ids": [1, 2]},
        "new field": {**_chat(content="x"), "new": {"deep": [PROBE]}},
    },
    "/v1/completions": {
        "text": {"prompt": ["x", PROBE]},
        "system": {"prompt": "x", "suffix": PROBE},
        "answer schema": {"prompt": "x", "response_format": _FORM},
        "token ids": {"prompt": [[1, 2]]},
        "new field": {"prompt": "x", "new": {"deep": [PROBE]}},
    },
    "/v1/embeddings": {
        "text": {"input": ["x", PROBE]},
        "image": {"input": [{"type": "image_url", "image_url": {"url": "data:x"}}]},
        "token ids": {"input": [1, 2]},
        "new field": {"input": "x", "new": {"deep": [PROBE]}},
    },
    "/v1/messages": {
        "text": _blocks({"type": "text", "text": PROBE}),
        "system": {**_blocks({"type": "text", "text": "x"}), "system": [{"type": "text", "text": PROBE}]},
        "name": {"messages": [{"role": "user", "content": "x", "name": PROBE}]},
        "tool call": _blocks(_USE),
        "tool result": _blocks({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": PROBE}]}),
        "reasoning": _blocks({"type": "thinking", "thinking": PROBE, "signature": "AAAA"}),
        "image": _blocks({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": _DATA}]}),
        "file": _blocks({"type": "document", "source": _DATA}),
        "tool definition": {**_blocks({"type": "text", "text": "x"}), "tools": [{**_TOLD, "input_schema": {}}]},
        "answer schema": {**_blocks({"type": "text", "text": "x"}), "output_config": {"format": _FORM}},
        "hosted tool": {**_blocks({"type": "text", "text": "x"}), "mcp_servers": [_SERVER]},
        "new field": {**_blocks({"type": "text", "text": "x"}), "new": {"deep": [PROBE]}},
    },
    "/v1/responses": {
        "text": _input({"role": "user", "content": [{"type": "input_text", "text": PROBE}]}),
        "system": {"input": "x", "instructions": PROBE},
        "name": _input({"role": "user", "content": "x", "name": PROBE}),
        "tool call": _input(_CALLED),
        "tool result": _input({"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": PROBE}]}),
        "refusal": _input({"role": "assistant", "content": [{"type": "refusal", "refusal": PROBE}]}),
        "reasoning": _input(_THOUGHT),
        "image": _input({"role": "user", "content": [{"type": "input_image", "image_url": "data:x"}]}),
        "audio": _input({"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA"}}]}),
        "file": _input({"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}),
        "tool definition": {"input": "x", "tools": [{"type": "function", **_TOLD}]},
        "answer schema": {"input": "x", "text": {"format": _FORM}},
        "hosted tool": {"input": "x", "tools": [_SERVER]},
        "token ids": _input(1, 2),
        "new field": {"input": "x", "new": {"deep": [PROBE]}},
    },
}
"""For each path the request with the probe in each part that the protocol has (for Anthropic's images: within a tool's result)."""

ANSWERS: Mapping[str, Mapping[str, Mapping[str, object]]] = {
    "/v1/chat/completions": {
        "text": _choice(content=PROBE),
        "name": _choice(content="x", name=PROBE),
        "tool call": _choice(content=None, tool_calls=[_FUNCTION]),
        "refusal": _choice(content=None, refusal=PROBE),
        "reasoning": _choice(content="x", reasoning_content=PROBE),
        "audio": _choice(content=None, audio={"id": "a", "data": "AA"}),
        "new field": {**_choice(content="x"), "new": {"deep": [PROBE]}},
    },
    "/v1/completions": {
        "text": _text_choice(text=PROBE),
        "new field": {**_text_choice(), "new": {"deep": [PROBE]}},
    },
    "/v1/embeddings": {
        "text": {"data": [{"object": "embedding", "index": 0, "embedding": PROBE}]},
        "new field": {"data": [], "new": {"deep": [PROBE]}},
    },
    "/v1/messages": {
        "text": _content({"type": "text", "text": PROBE}),
        "tool call": _content(_USE),
        "tool result": _content(
            {"type": "web_search_tool_result", "tool_use_id": "t", "content": [{"type": "web_search_result", "title": PROBE}]}
        ),
        "reasoning": _content({"type": "thinking", "thinking": PROBE, "signature": "AAAA"}),
        "file": _content({"type": "container_upload", "file_id": "f"}),
        "new field": _content({"type": "text", "text": "x", "new": {"deep": [PROBE]}}),
    },
    "/v1/responses": {
        "text": _output({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": PROBE}]}),
        "tool call": _output(_CALLED),
        "tool result": _output({"type": "mcp_call", "name": "f", "arguments": "{}", "output": PROBE}),
        "refusal": _output({"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": PROBE}]}),
        "reasoning": _output(_THOUGHT),
        "image": _output({"type": "image_generation_call", "id": "i", "result": "AAAA"}),
        "new field": {"output": [], "new": {"deep": [PROBE]}},
    },
}
"""The same for the answers."""
