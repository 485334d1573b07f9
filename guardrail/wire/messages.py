"""Anthropic's messages, whole bodies: a request or an answer becomes parts to judge, and a blocked answer becomes a refusal.

Not judged: `metadata` and identifiers. An answer is one message: its choice is 0.
"""

import json
from collections.abc import Mapping

from guardrail.errors import UpstreamError, WireError
from guardrail.types import Decision
from guardrail.wire import fields
from guardrail.wire.answer import Answer, FilterResults, answer_parts, made, plain
from guardrail.wire.blocks import add_content
from guardrail.wire.definitions import add_definition, add_settings
from guardrail.wire.document import dump
from guardrail.wire.history import messages_history
from guardrail.wire.parts import ROLES, PartList
from guardrail.wire.refusal import EVENTS, JSON, Reply, block_results
from guardrail.wire.request import Request
from guardrail.wire.stored import is_id
from guardrail.wire.told import add_told, bare
from guardrail.wire.tools import FETCHING, add_tools

_REQUEST_FIELDS = frozenset(
    [
        *("model", "messages", "system", "max_tokens", "stream", "stop_sequences", "temperature", "top_p", "top_k", "tools", "tool_choice"),
        *("metadata", "thinking", "service_tier", "betas", "mcp_servers", "speed", "cache_control", "inference_geo", "user_profile_id"),
        "workspace_id",
    ]
)
_SETTINGS = frozenset({"context_management", "diagnostics", "output_config", "output_format"})  # a model may read what they say
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_REQUEST_NAMES = fields.by_case(_REQUEST_FIELDS | _SETTINGS | FETCHING)
_MESSAGE_FIELDS = frozenset({"role", "content"})
_MESSAGE_NAMES = fields.by_case(_MESSAGE_FIELDS)
ANSWER_FIELDS = frozenset({"id", "type", "role", "model", "content", "stop_reason", "usage", "context_management", "diagnostics"})
"""The fields of an answer in which a model says nothing, but for `content`."""
WORDS = ANSWER_FIELDS - {"content", "role"}
"""Of those, what holds names and numbers."""
KEPT = ("id", "type", "role", "model")
"""The fields of a message that stay when it is blocked."""
_NO_USAGE = {"input_tokens": 0, "output_tokens": 0}
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
}


def read_messages_request(document: Mapping[str, object]) -> Request:
    """The request in a parsed document. Raises WireError (400) for anything that proxy and upstream could read differently."""
    fields.refuse_case_variants(document, _REQUEST_NAMES)
    return Request(fields.model(document), fields.flag(document, "stream"), document, "messages", _add_request, turns=messages_history)


def read_message(document: Mapping[str, object]) -> Answer:
    """The answer in a parsed document, whole or collected from a stream.

    Raises UpstreamError: `malformed` for anything but a message, `too_large` for too many parts.
    """
    content = document.get("content")
    if not isinstance(content, list) or document.get("type", "message") != "message":
        raise UpstreamError("malformed", "the upstream's answer is no message: it has no list of content blocks")
    with answer_parts() as parts:
        add_content(parts, "content", content)
        if document.get("role", "assistant") != "assistant":
            parts.unknown("role", document.get("role"), "name")
        add_told(parts, "answer", document, WORDS)
        parts.rest("answer", document, ANSWER_FIELDS)
    return made(document, parts, {0: document.get("stop_reason")})


def replace_message(answer: Answer, blocked: Mapping[int, FilterResults], notice: str | None) -> bytes:
    """The answer as a refusal that says `notice` (None: nothing); its usage is kept, and nothing else of it."""
    if not blocked:
        return dump(answer.document)
    return dump(refused_message(answer.document, blocked.get(0, {}), notice))


def refused_message(document: Mapping[str, object], results: FilterResults, notice: str | None) -> dict[str, object]:
    """A message that says that the model's was withheld, with the id, model and usage of `document`."""
    document = bare(document, WORDS)
    usage = document.get("usage")
    return {
        "type": "message",
        "role": "assistant",
        **{key: document[key] for key in KEPT if isinstance(document.get(key), str)},
        "content": [{"type": "text", "text": notice}] if notice else [],
        **refused_end(results),
        "usage": usage if isinstance(usage, dict) else _NO_USAGE,
    }


def refused_end(results: FilterResults) -> dict[str, object]:
    """How a refused message ends."""
    return {
        "stop_reason": "refusal",
        "stop_sequence": None,
        "stop_details": {"type": "refusal", "category": None, "explanation": None},
        "content_filter_results": plain(results),
    }


def refused_events(document: Mapping[str, object], results: FilterResults, notice: str | None) -> tuple[bytes, ...]:
    """The same as the events of a stream."""
    message = refused_message(document, results, notice)
    start = {**message, "content": [], "stop_reason": None, "stop_details": None}
    start.pop("content_filter_results")
    blocks: tuple[dict[str, object], ...] = ()
    if notice:
        blocks = (
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": notice}},
            {"type": "content_block_stop", "index": 0},
        )
    end = {"type": "message_delta", "delta": refused_end(results), "usage": message["usage"]}
    events: tuple[dict[str, object], ...] = ({"type": "message_start", "message": start}, *blocks, end, {"type": "message_stop"})
    return tuple(named_event(event) for event in events)


def message_block_reply(decision: Decision, request: Request, notice: str, created: int) -> Reply:
    """`on_block: reply`: 200, `stop_reason: refusal` and `notice`; an event stream if the request asked for one."""
    del created
    head = {"id": f"msg_{decision.id}", "model": request.model}
    results = block_results(decision)
    if request.stream:
        return Reply(200, EVENTS, b"".join(refused_events(head, results, notice)))
    return Reply(200, JSON, dump(refused_message(head, results, notice)))


def message_error(reply: Reply) -> Reply:
    """An error of ours, or an upstream's made safe, in Anthropic's envelope: `{"type": "error", "error": {"type", "message", …}}`."""
    found = json.loads(reply.body)["error"]
    kind = found.get("type")
    if kind in (None, "server_error", "upstream_error") or reply.status in (401, 403, 404, 413, 429):
        kind = _ERROR_TYPES.get(reply.status, kind if kind not in (None, "server_error", "upstream_error") else "api_error")
    error = {"type": kind, "message": found["message"]}
    error |= {key: found[key] for key in ("code", "param", "guardrail") if found.get(key) is not None}
    return Reply(reply.status, reply.headers, dump({"type": "error", "error": error}))


def message_error_event(reply: Reply) -> bytes:
    """The event that ends a stream that broke."""
    return b"event: error\ndata: " + message_error(reply).body + b"\n\n"


def named_event(document: Mapping[str, object]) -> bytes:
    """One event, named by its type as Anthropic's and the Responses API's are."""
    return f"event: {document['type']}\n".encode() + b"data: " + dump(document) + b"\n\n"


def _add_request(parts: PartList, document: Mapping[str, object]) -> None:
    messages = document.get("messages")
    if not isinstance(messages, list) or not messages:
        raise WireError(400, "invalid_messages", "messages must be a non-empty list.", param="messages")
    parts.role = "system"
    add_content(parts, "system", document.get("system"))
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        if not isinstance(message, dict):
            raise WireError(400, "invalid_messages", f"{place} must be an object.", param=place)
        fields.refuse_case_variants(message, _MESSAGE_NAMES)
        role = message.get("role")
        parts.role = role if isinstance(role, str) and role in ROLES else "unknown"
        if parts.role == "unknown":
            parts.unknown(f"{place}.role", role, "name")
        add_content(parts, f"{place}.content", message.get("content"))
        parts.rest(place, message, _MESSAGE_FIELDS)
    parts.role = "user"
    add_tools(parts, document)
    output = document.get("output_config")
    configured = output.get("format") if isinstance(output, Mapping) else None
    for place, form in (("output_format", document.get("output_format")), ("output_config.format", configured)):
        if isinstance(form, Mapping) and isinstance(form.get("schema"), Mapping):
            add_definition(parts, f"{place}.schema", form["schema"])
    add_settings(parts, document, _REQUEST_FIELDS - {"messages", "system", "tools", "mcp_servers"})  # those are read by others
    parts.rest("body", {**document, **_settings(document)}, _REQUEST_FIELDS)


def _settings(document: Mapping[str, object]) -> dict[str, object]:
    """The settings that hold prose and more, without that: schemas, identifiers and words of the protocol."""
    found: dict[str, object] = {}
    if "output_format" in document:
        found["output_format"] = _form(document["output_format"])
    output, told = document.get("output_config"), document.get("diagnostics")
    if isinstance(output, Mapping):
        said = {key: value for key, value in output.items() if not (key == "effort" and value in _EFFORTS)}
        found["output_config"] = {**said, **({"format": _form(said["format"])} if "format" in said else {})}
    if isinstance(told, Mapping):
        found["diagnostics"] = {key: value for key, value in told.items() if not (key == "previous_message_id" and is_id(value))}
    return found


def _form(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    return {key: child for key, child in value.items() if not (key == "schema" and isinstance(child, Mapping))}
