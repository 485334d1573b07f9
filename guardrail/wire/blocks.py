"""Anthropic's content blocks as parts: text, tools and their results, documents, search results, thinking, and what nobody can read."""

import re
from collections.abc import Mapping

from guardrail.wire.document import readable
from guardrail.wire.parts import OPAQUE_KEYS, PartList, is_tokens

_ENCRYPTED = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")  # only the provider can read it
_ENCRYPTED_KEYS = {  # by the type of the block that has it
    "thinking": "signature",
    "redacted_thinking": "data",
    "web_search_result": "encrypted_content",
    "web_search_result_location": "encrypted_index",
    "encrypted_code_execution_result": "encrypted_stdout",
}
_FETCHED = frozenset({"encrypted_content", "encrypted_stdout"})
_TYPE = re.compile(r"[a-z0-9_]{1,64}")
_SERVERS = ("web_search", "web_fetch", "code_execution", "bash_code_execution", "text_editor_code_execution", "tool_search", "advisor")
_RESULTS = frozenset({"tool_result", "mcp_tool_result", *(f"{name}_tool_result" for name in _SERVERS)})
_USES = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
_WITHIN_RESULTS = _RESULTS | {
    *(f"{name}{end}" for name in _SERVERS for end in ("_result", "_output", "_tool_result_error")),
    *(f"text_editor_code_execution_{name}_result" for name in ("view", "create", "str_replace")),
    *("encrypted_code_execution_result", "tool_search_tool_search_result", "web_search_result_location", "ephemeral", "direct"),
}
_SOURCES_OF_DATA = frozenset({"base64", "url", "file"})
_REFERENCES = frozenset({"type", "id", "tool_use_id", "cache_control", "is_error", "toolset_name"})
_MAX_DEPTH = 8
_NO_TEXT = {"image": "image", "container_upload": "file", "audio": "audio", "video": "file"}


def add_content(parts: PartList, path: str, value: object, kind: str = "text", depth: int = 0) -> None:
    """Add a message's or a block's content: a string, or a list of blocks, which are judged one by one and as the text they make."""
    if isinstance(value, str):
        parts.text(path, value, kind)
    elif isinstance(value, list) and not is_tokens(value) and depth < _MAX_DEPTH:
        for number, block in enumerate(value):
            add_block(parts, f"{path}[{number}]", block, kind, depth)
        parts.joined(path, _texts(value))
    elif isinstance(value, Mapping) and depth < _MAX_DEPTH:
        add_block(parts, path, value, kind, depth)
    elif value is not None:
        parts.unknown(path, value)
        parts.opaque(path, "unknown")


def add_block(parts: PartList, path: str, block: object, kind: str = "text", depth: int = 0) -> None:
    """Add one block. Of a type that is not known the strings are judged, and because they need not be all, it is marked as well."""
    if isinstance(block, str):
        parts.text(path, block, kind)
        return
    name = block.get("type") if isinstance(block, Mapping) else None
    if not isinstance(block, Mapping) or not isinstance(name, str):
        parts.unknown(path, block)
        parts.opaque(path, "unknown")
    elif name == "text":
        parts.unknown(f"{path}.text", block.get("text"), kind)
        _rest(parts, path, block, {"text"})
    elif name == "thinking":
        parts.unknown(f"{path}.thinking", block.get("thinking"), "reasoning")
        _rest(parts, path, block, {"thinking"})
    elif name == "redacted_thinking":
        _rest(parts, path, block, set())
    elif name == "document":
        _document(parts, path, block, depth)
    elif name == "search_result":
        add_content(parts, f"{path}.content", block.get("content"), "tool_result", depth + 1)
        _rest(parts, path, block, {"content"})
    elif name in _NO_TEXT:
        parts.opaque(path, _NO_TEXT[name])
        _rest(parts, path, block, {"source", "file_id"})
    elif name in _USES or (name.endswith("_tool_use") and _TYPE.fullmatch(name)):
        _type(parts, path, name, _USES)
        parts.unknown(f"{path}.name", block.get("name"), "name")
        parts.unknown(f"{path}.input", block.get("input"), "tool_arguments")
        _rest(parts, path, block, {"name", "input"})
    elif name in _RESULTS or (name.endswith("_tool_result") and _TYPE.fullmatch(name)):
        _type(parts, path, name, _RESULTS)
        add_result(parts, f"{path}.content", block.get("content"), depth + 1)
        _rest(parts, path, block, {"content"})
    else:
        parts.unknown(path, [name, {key: value for key, value in block.items() if key != "type"}])
        parts.opaque(path, "unknown")


def add_result(parts: PartList, path: str, value: object, depth: int) -> None:
    """Add what a tool gave back: text, blocks, or a provider's own tools' objects, in which documents may lie."""
    if isinstance(value, list) and not is_tokens(value) and depth < _MAX_DEPTH:
        for number, item in enumerate(value):
            add_result(parts, f"{path}[{number}]", item, depth + 1)
        parts.joined(path, _texts(value))
    elif isinstance(value, Mapping) and depth < _MAX_DEPTH:
        name = value.get("type")
        if name in ("text", "document", "search_result", "tool_reference") or (isinstance(name, str) and name in _NO_TEXT):
            add_block(parts, path, {**value, "type": "text"} if name == "tool_reference" else value, "tool_result", depth)
        elif "source" in value and isinstance(value["source"], Mapping):
            add_block(parts, path, {**value, "type": "document"}, "tool_result", depth)
        elif name is not None and not (isinstance(name, str) and name in _WITHIN_RESULTS):  # the strings are judged, and need not be all
            parts.unknown(path, [name, value], "tool_result")
            parts.opaque(path, "unknown")
        else:
            _fields(parts, path, value, depth)
    elif value is not None:
        parts.unknown(path, value, "tool_result" if isinstance(value, str) else "unknown")
        if isinstance(value, list | Mapping) and depth >= _MAX_DEPTH:
            parts.opaque(path, "unknown")


def _fields(parts: PartList, path: str, value: Mapping[str, object], depth: int) -> None:
    """An object within a result, whose lists and objects are read like results themselves."""
    for key in sorted(OPAQUE_KEYS.keys() & value.keys()):
        if isinstance(value[key], list | Mapping):  # a string is marked with the rest
            parts.opaque(path, OPAQUE_KEYS[key])
    for key in sorted(value.keys() - _unread(parts, path, value)):
        if isinstance(value[key], list | Mapping) and key not in _REFERENCES:
            add_result(parts, f"{path}.{key if key.isidentifier() and len(key) < 64 else '?'}", value[key], depth + 1)
        else:
            _rest(parts, path, {key: value[key]}, set())


def _texts(blocks: list[object]) -> list[str]:
    """What a model reads in one go: the strings and text blocks of a list."""
    texts = (block.get("text") if isinstance(block, Mapping) and block.get("type") == "text" else block for block in blocks)
    return [readable(text) for text in texts if isinstance(text, str) and text]


def _document(parts: PartList, path: str, block: Mapping[str, object], depth: int) -> None:
    source = block.get("source")
    kind = source.get("type") if isinstance(source, Mapping) else None
    if isinstance(source, Mapping) and kind == "text":
        parts.unknown(f"{path}.source.data", source.get("data"), "tool_result")
        _rest(parts, f"{path}.source", source, {"data"} | ({"media_type"} if source.get("media_type") == "text/plain" else set()))
    elif isinstance(source, Mapping) and kind == "content":
        add_content(parts, f"{path}.source.content", source.get("content"), "tool_result", depth + 1)
        _rest(parts, f"{path}.source", source, {"content"})
    else:
        parts.opaque(f"{path}.source", "file")
        if not (isinstance(kind, str) and kind in _SOURCES_OF_DATA):
            parts.unknown(f"{path}.source", source)
    _rest(parts, path, block, {"source"})


def _rest(parts: PartList, path: str, block: Mapping[str, object], known: set[str]) -> None:
    """Every other field; what only the provider can read is none, as long as it looks like that."""
    parts.rest(path, block, known | _unread(parts, path, block) | {"type"})
    parts.media(path, {key: value for key, value in block.items() if key not in known})


def _unread(parts: PartList, path: str, block: Mapping[str, object]) -> set[str]:
    """The field that only the provider can read; marked in a request, where the model reads what was once fetched for it."""
    sealed = _sealed(block)
    for key in sorted(sealed & _FETCHED):
        if parts.choice is None and block.get(key):
            parts.opaque(f"{path}.{key}", "url" if key == "encrypted_content" else "container")
    return sealed


def _sealed(block: Mapping[str, object]) -> set[str]:
    """The field of a block that only the provider can read, if it is its type's and does not look like words."""
    kind = block.get("type")
    key = _ENCRYPTED_KEYS.get(kind) if isinstance(kind, str) else None
    value = block.get(key) if key else None
    if key is None or not isinstance(value, str) or not _ENCRYPTED.fullmatch(value):
        return set()
    return {key} if not value or all(any(map(test, value)) for test in (str.isupper, str.islower, str.isdigit)) else set()


def _type(parts: PartList, path: str, name: str, known: frozenset[str]) -> None:
    """The name of a type that nobody knows may be words."""
    if name not in known:
        parts.text(f"{path}.type", name, "unknown")
