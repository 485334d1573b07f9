"""The items of OpenAI's Responses API as parts: messages, tool calls and what they gave back, reasoning, and what nobody can read."""

import re
from collections.abc import Mapping

from guardrail.wire.parts import PartList

_SEALED = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")  # encrypted: only the provider can read it
_CALLS = frozenset(  # items whose strings are all that there is in them
    [
        *("file_search_call", "web_search_call", "computer_call", "local_shell_call", "shell_call", "apply_patch_call", "tool_search_call"),
        *("mcp_call", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response", "function_call", "custom_tool_call"),
        *("code_interpreter_call", "reasoning", "compaction"),
    ]
)
_ARGUMENTS = frozenset({"arguments", "input", "code", "action", "queries", "operation"})
_TEXTS = frozenset({"input_text", "output_text", "text", "logs", "refusal", "summary_text"})
_PICTURES = {"image": "image", "computer_screenshot": "image", "input_image": "image", "input_file": "file"}
_SEALING = frozenset({"reasoning", "compaction"})  # the items that have encrypted content
_NO_WORDS = frozenset({"type", "id", "role", "status", "phase", "call_id"})
REFERENCE = "item_reference"


def is_reference(item: object) -> bool:
    """True for an item that stands for one that is stored elsewhere: it says that, or has an id and no content of its own."""
    if not isinstance(item, Mapping):
        return False
    kind = item.get("type")
    if kind == REFERENCE or (kind is None and "role" not in item and "content" not in item):
        return True
    if item.get("id") is None or kind == "image_generation_call":  # a picture is none to be read, whether it is here or not
        return False
    if kind in (None, "message"):
        return not _says(item.get("content"))
    if kind == "reasoning":
        return not any(_says(item.get(key)) for key in ("summary", "content", "encrypted_content"))
    if isinstance(kind, str) and kind.endswith("_output") and isinstance(item.get("output"), str | list):
        return False  # a tool may give nothing back
    return not any(_says(value) for key, value in item.items() if key not in _NO_WORDS)


def _says(value: object) -> bool:
    """True where there is anything in a value beside the names of types."""
    if isinstance(value, Mapping):
        return any(_says(child) for key, child in value.items() if key != "type")
    return any(map(_says, value)) if isinstance(value, list) else value not in (None, "", False)


def add_item(parts: PartList, path: str, item: object, role: str) -> None:
    """Add one item. `role` is that of a message without one. Of an unknown type the strings are judged, and it is marked as well."""
    kind = item.get("type", "message") if isinstance(item, Mapping) else None
    if not isinstance(item, Mapping) or not isinstance(kind, str):
        parts.unknown(path, item)
        parts.opaque(path, "unknown")
    elif kind == "message":
        parts.message(path, {key: value for key, value in item.items() if key not in ("type", "status", "phase")}, role)
        parts.role = role
        parts.rest(path, {key: item[key] for key in ("status", "phase") if key in item}, ())
    elif kind.endswith("_output"):
        _output(parts, f"{path}.output", item.get("output"))
        _rest(parts, path, item, {"output"})
    elif kind == "image_generation_call":
        if item.get("result") or parts.choice is None:  # a request without it means the one that is stored
            parts.opaque(path, "image")
        _rest(parts, path, item, {"result"})
    elif kind in _CALLS:
        _call(parts, path, item)
    else:
        parts.unknown(path, [kind, {key: value for key, value in item.items() if key != "type"}])
        parts.opaque(path, "unknown")


def _call(parts: PartList, path: str, item: Mapping[str, object]) -> None:
    if "name" in item:
        parts.unknown(f"{path}.name", item["name"], "name")
    for key in sorted(_ARGUMENTS & item.keys()):
        parts.unknown(f"{path}.{key}", item[key], "tool_arguments")
    for key in ("summary", "content"):
        if item.get("type") == "reasoning" and key in item:
            parts.unknown(f"{path}.{key}", item[key], "reasoning")
    known = {"name"} | _ARGUMENTS | ({"summary", "content"} if item.get("type") == "reasoning" else set())
    if item.get("type") == "code_interpreter_call":
        _output(parts, f"{path}.outputs", item.get("outputs"))
        known.add("outputs")
    if "output" in item:
        _output(parts, f"{path}.output", item["output"])
        known.add("output")
    _rest(parts, path, item, known)


def _output(parts: PartList, path: str, value: object) -> None:
    """What a tool gave back: a string, or content parts, pictures among them."""
    role, parts.role = parts.role, "tool"
    items = value if isinstance(value, list) else [value] if isinstance(value, Mapping) else None
    if items is None:
        parts.unknown(path, value, "tool_result")
    else:
        first = len(parts.found)
        for number, item in enumerate(items):
            place = f"{path}[{number}]" if isinstance(value, list) else path
            kind = item.get("type") if isinstance(item, Mapping) else None
            if isinstance(item, Mapping) and isinstance(kind, str) and kind in _PICTURES:
                parts.opaque(place, _PICTURES[kind])
                parts.rest(place, item, ("type", "image_url", "url", "file_id", "file_url", "file_data", "detail"))
            elif isinstance(item, Mapping):
                if kind is None or (isinstance(kind, str) and kind in _TEXTS):
                    parts.unknown(place, item, "tool_result")
                    parts.media(place, item)
                else:
                    parts.unknown(place, [kind, item], "tool_result")
                    parts.opaque(place, "unknown")
            else:
                parts.unknown(place, item, "tool_result")
        parts.joined(path, [part.text for part in parts.found[first:] if part.text is not None])
    parts.role = role


def _rest(parts: PartList, path: str, item: Mapping[str, object], known: set[str] | frozenset[str]) -> None:
    """Every other field. What is encrypted is nothing to a client, but a model that is sent it reads it."""
    sealed = item.get("encrypted_content")
    hidden = set[str]()
    if item.get("type") in _SEALING and sealed:
        if parts.choice is None:
            parts.opaque(f"{path}.encrypted_content", "unknown")
        if isinstance(sealed, str) and _SEALED.fullmatch(sealed):
            hidden = {"encrypted_content"}
    parts.rest(path, item, known | hidden)
