"""What the embedded upstream says in the protocols whose streams are named events: Anthropic's messages and OpenAI's responses.

Both have one answer: the first choice, or the insulting one of `embedded-mixed`.
"""

import json
from collections.abc import Mapping

from guardrail.upstream.script import CREATED, Choice, Script, pieces


def message(script: Script) -> bytes:
    """The answer as one Anthropic message."""
    choice = script.choices[-1]
    block: dict[str, object] = {"type": "text", "text": choice.text}
    if choice.tool is not None:
        block = {"type": "tool_use", "id": "toolu_embedded", "name": choice.tool, "input": json.loads(choice.arguments)}
    return json.dumps(_message(script, [block], "end_turn" if choice.tool is None else "tool_use")).encode()


def message_events(script: Script) -> list[bytes]:
    """The same as the events of a stream."""
    choice = script.choices[-1]
    block: dict[str, object] = {"type": "text", "text": ""}
    deltas: list[dict[str, object]] = [{"type": "text_delta", "text": piece} for piece in pieces(choice.text or "")]
    if choice.tool is not None:
        block = {"type": "tool_use", "id": "toolu_embedded", "name": choice.tool, "input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces(choice.arguments)]
    reason = "end_turn" if choice.tool is None else "tool_use"
    events: list[dict[str, object]] = [
        {"type": "message_start", "message": _message(script, [], None)},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "ping"},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": _usage(script)},
        {"type": "message_stop"},
    ]
    return [_named(event) for event in events]


def response(script: Script) -> bytes:
    """The answer as one response."""
    return json.dumps(_response(script, "completed", [_item(script.choices[-1])])).encode()


def response_events(script: Script) -> list[bytes]:
    """The same as the events of a stream."""
    choice = script.choices[-1]
    item = _item(choice)
    start: dict[str, object] = {"content": []} if choice.tool is None else {"arguments": ""}
    empty = {**item, "status": "in_progress", **start}
    place = {"item_id": item["id"], "output_index": 0}
    inside = {**place, "content_index": 0}
    part: dict[str, object] = {"type": "output_text", "text": choice.text, "annotations": [], "logprobs": []}
    told: list[dict[str, object]]
    if choice.tool is None:
        told = [
            {"type": "response.content_part.added", **inside, "part": {**part, "text": ""}},
            *({"type": "response.output_text.delta", **inside, "delta": piece, "logprobs": []} for piece in pieces(choice.text or "")),
            {"type": "response.output_text.done", **inside, "text": choice.text, "logprobs": []},
            {"type": "response.content_part.done", **inside, "part": part},
        ]
    else:
        told = [
            *({"type": "response.function_call_arguments.delta", **place, "delta": piece} for piece in pieces(choice.arguments)),
            {"type": "response.function_call_arguments.done", **place, "name": choice.tool, "arguments": choice.arguments},
        ]
    events: list[dict[str, object]] = [
        {"type": "response.created", "response": _response(script, "in_progress", [])},
        {"type": "response.in_progress", "response": _response(script, "in_progress", [])},
        {"type": "response.output_item.added", "output_index": 0, "item": empty},
        *told,
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": _response(script, "completed", [item])},
    ]
    return [_named({**event, "sequence_number": number}) for number, event in enumerate(events)]


def _message(script: Script, content: list[dict[str, object]], reason: str | None) -> dict[str, object]:
    head = {"id": f"msg_{script.id}", "type": "message", "role": "assistant", "model": script.model}
    return {**head, "content": content, "stop_reason": reason, "stop_sequence": None, "usage": _usage(script)}


def _response(script: Script, status: str, output: list[dict[str, object]]) -> dict[str, object]:
    usage = _usage(script)
    counted = {**usage, "total_tokens": sum(usage.values())}
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    return {
        "id": f"resp_{script.id}",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": script.model,
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {**counted, **details} if status == "completed" else None,
    }


def _item(choice: Choice) -> dict[str, object]:
    if choice.tool is not None:
        call = {"type": "function_call", "id": "fc_embedded", "call_id": "call_embedded", "name": choice.tool}
        return {**call, "arguments": choice.arguments, "status": "completed"}
    content: list[dict[str, object]] = [{"type": "output_text", "text": choice.text, "annotations": [], "logprobs": []}]
    return {"type": "message", "id": "msg_embedded", "role": "assistant", "status": "completed", "content": content}


def _usage(script: Script) -> dict[str, int]:
    return {"input_tokens": script.prompt_tokens, "output_tokens": script.usage["completion_tokens"]}


def _named(event: Mapping[str, object]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
