"""OpenAI's Responses API, whole bodies: a request or an answer becomes parts to judge, and a blocked answer becomes an incomplete one.

What would make the model read text that is not in the request is refused: `conversation`, references to stored items, and, by routes
that do not resolve it, `previous_response_id`. So is `background`, whose answer would be fetched past the guard. A stored `prompt` is a
part that cannot be read. Not judged are `metadata` and identifiers. An answer is one choice, 0.
"""

import json
from collections.abc import Mapping

from guardrail.errors import UpstreamError, WireError
from guardrail.types import Decision
from guardrail.wire import fields
from guardrail.wire.answer import Answer, FilterResults, answer_parts, made, plain
from guardrail.wire.definitions import add_definition, add_settings
from guardrail.wire.document import dump
from guardrail.wire.history import responses_history
from guardrail.wire.items import add_item, is_reference
from guardrail.wire.messages import named_event
from guardrail.wire.parts import PartList, is_tokens
from guardrail.wire.refusal import EVENTS, JSON, Reply, block_results
from guardrail.wire.request import Request
from guardrail.wire.stored import FIELD, is_id
from guardrail.wire.told import add_told, bare
from guardrail.wire.tools import FETCHING, add_tools

_REQUEST_FIELDS = frozenset(
    [
        *("model", "input", "instructions", "stream", "stream_options", "tools", "tool_choice", "parallel_tool_calls", "max_tool_calls"),
        *("temperature", "top_p", "top_logprobs", "max_output_tokens", "text", "reasoning", "truncation", "metadata", "user", "store"),
        *("include", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "background", "prompt"),
        *("previous_response_id", "conversation", "moderation", "prompt_cache_options"),
    ]
)
_SETTINGS = _REQUEST_FIELDS - {"input", "instructions", "prompt", "tools", "previous_response_id", "moderation"}  # those are read by others
_REQUEST_NAMES = fields.by_case(_REQUEST_FIELDS | FETCHING | {"context_management"})  # what it says is judged
ECHOED = frozenset(  # what an answer repeats of its request, and what describes it
    [
        *(
            "id",
            "object",
            "created_at",
            "completed_at",
            "status",
            "incomplete_details",
            "model",
            "usage",
            "output",
            "instructions",
            "tools",
        ),
        *("tool_choice", "parallel_tool_calls", "max_tool_calls", "temperature", "top_p", "top_logprobs", "max_output_tokens", "text"),
        *("reasoning", "truncation", "metadata", "user", "store", "service_tier", "safety_identifier", "prompt_cache_key", "background"),
        *("prompt_cache_retention", "previous_response_id", "conversation", "prompt", "billing", "frequency_penalty", "presence_penalty"),
        *("moderation", "prompt_cache_options", "context_management", "content_filters"),
    ]
)
WORDS = frozenset(  # of those, what holds names and numbers
    [
        *("id", "object", "created_at", "completed_at", "status", "incomplete_details", "model", "usage", "truncation", "background"),
        *("service_tier", "reasoning", "tool_choice", "prompt_cache_retention", "previous_response_id", "conversation", "billing"),
        *("moderation", "content_filters"),
    ]
)
_KEPT = ("id", "created_at", "model", "parallel_tool_calls", "temperature", "top_p", "max_output_tokens", "store", "truncation")
_NO_USAGE = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens_details": {"reasoning_tokens": 0},
}


def read_responses_request(document: Mapping[str, object]) -> Request:
    """The request in a parsed document.

    Raises WireError (400) for anything that proxy and upstream could read differently, or only the upstream could.
    """
    fields.refuse_case_variants(document, _REQUEST_NAMES)
    if document.get("conversation") is not None:
        message = "conversation is not served here: what it stands for cannot be judged. Send the turns themselves."
        raise WireError(400, "unsupported_parameter", message, param="conversation")
    stored = document.get(FIELD)
    if stored is not None and not is_id(stored):
        raise WireError(400, f"invalid_{FIELD}", f"{FIELD} must be the id of a response.", param=FIELD)
    if fields.flag(document, "background"):
        raise WireError(400, "unsupported_parameter", "background is not served here: its answer could not be judged.", param="background")
    fields.include_usage(document)
    continued = str(stored) if stored is not None else None
    model, stream = fields.model(document), fields.flag(document, "stream")
    request = Request(model, stream, document, "input", _add_request, stored=continued, turns=responses_history)
    for name in ("instructions", "input"):
        given = document.get(name)
        if isinstance(given, list) and any(map(is_reference, given)):
            raise WireError(400, "unsupported_parameter", "A reference to a stored item cannot be judged. Send the item.", param=name)
    return request


def read_response(document: Mapping[str, object]) -> Answer:
    """The answer in a parsed document. Raises UpstreamError: `malformed` for anything but a response, `too_large` for too many parts."""
    output = document.get("output")
    if not isinstance(output, list) or document.get("object", "response") != "response":
        raise UpstreamError("malformed", "the upstream's answer is no response: it has no list of output items")
    with answer_parts() as parts:
        for number, item in enumerate(output):
            parts.role = "assistant"
            add_item(parts, f"output[{number}]", item, "assistant")
        parts.role = "assistant"
        add_told(parts, "answer", document, WORDS)
        parts.rest("answer", document, ECHOED)
    details = document.get("incomplete_details")
    return made(document, parts, {0: details.get("reason") if isinstance(details, dict) else document.get("status")})


def replace_response(answer: Answer, blocked: Mapping[int, FilterResults], notice: str | None) -> bytes:
    """The answer as incomplete, with `notice` for its only text (None: no output); its usage is kept, and nothing else of it."""
    if not blocked:
        return dump(answer.document)
    return dump(refused_response(answer.document, blocked.get(0, {}), notice))


def refused_response(document: Mapping[str, object], results: FilterResults, notice: str | None) -> dict[str, object]:
    """A response that says that the model's was withheld, with the id, model, usage and settings of `document`."""
    document = bare(document, WORDS)
    usage = document.get("usage")
    kept = {key: document[key] for key in _KEPT if isinstance(document.get(key), str | int | float)}
    return {
        "created_at": 0,
        "parallel_tool_calls": True,
        **kept,
        "object": "response",
        "status": "incomplete",
        "incomplete_details": {"reason": "content_filter"},
        "error": None,
        "instructions": None,
        "metadata": {},
        "tool_choice": "auto",
        "tools": [],
        "output": [_message(notice, "completed")] if notice else [],
        "usage": usage if isinstance(usage, dict) else _NO_USAGE,
        "content_filter_results": plain(results),
    }


def refused_events(document: Mapping[str, object], results: FilterResults, notice: str | None) -> tuple[bytes, ...]:
    """The same as the events of a stream."""
    response = refused_response(document, results, notice)
    start = {key: value for key, value in response.items() if key != "content_filter_results"}
    start |= {"status": "in_progress", "incomplete_details": None, "output": [], "usage": None}
    events: list[dict[str, object]] = [{"type": "response.created", "response": start}]
    if notice:
        item, place = _message(notice, "completed"), {"item_id": _ITEM, "output_index": 0, "content_index": 0}
        part = {"type": "output_text", "text": notice, "annotations": []}
        events += [
            {"type": "response.output_item.added", "output_index": 0, "item": {**item, "status": "in_progress", "content": []}},
            {"type": "response.content_part.added", **place, "part": {**part, "text": ""}},
            {"type": "response.output_text.delta", **place, "delta": notice, "logprobs": []},
            {"type": "response.output_text.done", **place, "text": notice, "logprobs": []},
            {"type": "response.content_part.done", **place, "part": part},
            {"type": "response.output_item.done", "output_index": 0, "item": item},
        ]
    events.append({"type": "response.incomplete", "response": response})
    return tuple(named_event({**event, "sequence_number": number}) for number, event in enumerate(events))


def response_block_reply(decision: Decision, request: Request, notice: str, created: int) -> Reply:
    """`on_block: reply`: 200, `status: incomplete` and `notice`; an event stream if the request asked for one."""
    head = {"id": f"resp_{decision.id}", "model": request.model, "created_at": created}
    results = block_results(decision)
    if request.stream:
        return Reply(200, EVENTS, b"".join(refused_events(head, results, notice)))
    return Reply(200, JSON, dump(refused_response(head, results, notice)))


def response_error_event(reply: Reply) -> bytes:
    """The event that ends a stream that broke."""
    found = json.loads(reply.body)["error"]
    error = {key: found.get(key) for key in ("code", "message", "param")}
    return named_event({"type": "error", **error, "sequence_number": 0})


_ITEM = "msg_withheld"


def _message(text: str, status: str) -> dict[str, object]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"id": _ITEM, "type": "message", "role": "assistant", "status": status, "content": content}


def _add_request(parts: PartList, document: Mapping[str, object]) -> None:
    parts.role = "system"
    _add_input(parts, "instructions", document.get("instructions"), "system")
    parts.role = "user"
    _add_input(parts, "input", document.get("input"), "user")
    parts.role = "user"
    prompt = document.get("prompt")
    if prompt is not None:
        parts.unknown("prompt.variables", prompt.get("variables") if isinstance(prompt, dict) else prompt)
        parts.opaque("prompt", "unknown")
    add_tools(parts, document)
    text = document.get("text")
    if isinstance(text, Mapping):
        add_definition(parts, "text.format", text.get("format"))
        text = {key: value for key, value in text.items() if key != "format"}
    add_settings(parts, {**document, "text": text}, _SETTINGS)
    parts.rest("body", document, _REQUEST_FIELDS)


def _add_input(parts: PartList, path: str, value: object, role: str) -> None:
    if isinstance(value, str):
        parts.text(path, value)
    elif isinstance(value, list) and not is_tokens(value):
        for number, item in enumerate(value):
            parts.role = role
            add_item(parts, f"{path}[{number}]", item, role)
    elif value is not None:
        parts.unknown(path, value)
        parts.opaque(path, "unknown")
    elif path == "input":
        raise WireError(400, "invalid_input", "input must be a string or a list of items.", param="input")
