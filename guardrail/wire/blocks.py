"""Anthropic's content blocks as parts: text, tools and their results, documents, search results, thinking, and what nobody can read."""

import re
from collections.abc import Mapping

from guardrail.wire.document import readable
from guardrail.wire.parts import PartList, is_tokens

_ENCRYPTED = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")  # only the provider can read it
_ENCRYPTED_KEYS = frozenset({"signature", "encrypted_content", "encrypted_index", "encrypted_stdout", "data"})
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
    elif name.endswith("tool_use"):
        parts.unknown(f"{path}.name", block.get("name"), "name")
        parts.unknown(f"{path}.input", block.get("input"), "tool_arguments")
        _rest(parts, path, block, {"name", "input"})
    elif name.endswith("tool_result"):
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
        else:
            for key in sorted(value):
                if isinstance(value[key], list | Mapping) and key not in _REFERENCES:
                    add_result(parts, f"{path}.{key if key.isidentifier() and len(key) < 64 else '?'}", value[key], depth + 1)
                else:
                    _rest(parts, path, {key: value[key]}, set())
    elif value is not None:
        parts.unknown(path, value, "tool_result" if isinstance(value, str) else "unknown")


def _texts(blocks: list[object]) -> list[str]:
    """What a model reads in one go: the strings and text blocks of a list."""
    texts = (block.get("text") if isinstance(block, Mapping) and block.get("type") == "text" else block for block in blocks)
    return [readable(text) for text in texts if isinstance(text, str) and text]


def _document(parts: PartList, path: str, block: Mapping[str, object], depth: int) -> None:
    source = block.get("source")
    kind = source.get("type") if isinstance(source, Mapping) else None
    if isinstance(source, Mapping) and kind == "text":
        parts.unknown(f"{path}.source.data", source.get("data"), "tool_result")
        _rest(parts, f"{path}.source", source, {"data", "media_type"})
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
    sealed = {key for key in _ENCRYPTED_KEYS & block.keys() if isinstance(value := block[key], str) and _ENCRYPTED.fullmatch(value)}
    parts.rest(path, block, known | sealed | {"type"})
