"""Tools that the provider runs itself: what they fetch reaches the model without passing the guard, so a request that offers one is marked.

Tools that the client runs are none of these: what they give back comes in a later request, where it is judged. What a tool's definition
says is judged of both.
"""

import re
from collections.abc import Mapping

from guardrail.wire.definitions import add_definition
from guardrail.wire.parts import PartList

_CLIENTS = re.compile(
    r"function|custom|apply_patch|local_shell|image_generation|programmatic_tool_calling"
    r"|tool_search(_tool)?(_(bm25|regex))?(_\d{8})?|computer(_use_preview|_toolset)?(_\d{8})?|(bash|text_editor|memory|browser_toolset)_\d{8}"
)
_KINDS = (
    (re.compile(r"web_.*|url_context|x_search|browser_search|google_search.*"), "url"),
    (re.compile(r"file_search|retrieval|collections_search"), "file"),
    (re.compile(r"code_interpreter|code_execution(_\d{8})?|shell"), "container"),
)
_NAMES = re.compile(
    rf"{_CLIENTS.pattern}|namespace|mcp|file_search|code_interpreter|shell|(web_search(_preview)?|web_fetch|code_execution)(_[\d_]{{8,10}})?"
)
"""Types of tools that say nothing beside what they are. Any other is judged as a word of the definition."""
_FIELDS: Mapping[str, str] = {
    "web_search_options": "url",
    "search_parameters": "url",
    "web_search": "url",
    "enable_search": "url",
    "data_sources": "file",
    "plugins": "tool_server",
    "mcp_servers": "tool_server",
    "container": "container",
}
FETCHING = frozenset(_FIELDS)
"""Fields of a request that let the model read what is fetched for it."""
_MAX_DEPTH = 4
_UNREAD = frozenset({"headers", "authorization", "authorization_token", "api_key", "server_url"})  # for the provider, never for its model


def add_tools(parts: PartList, document: Mapping[str, object]) -> None:
    """Add what each tool of a request is said to be, and mark those by which its model reads what the guard never sees.

    The marks are `tool_server`, `url`, `file`, `container`. A tool of a type that is not known is one of them.
    """
    add_offered(parts, document.get("tools"))
    functions = document.get("functions")
    for number, function in enumerate(functions if isinstance(functions, list) else [functions]):
        add_definition(parts, f"functions[{number}]", function)
    for name, kind in _FIELDS.items():
        value = document.get(name)
        if isinstance(value, list):
            for number, _ in enumerate(value):
                parts.opaque(f"{name}[{number}]", kind)
        elif value is not None and value is not False and value != "":
            parts.opaque(name, kind)


def add_offered(parts: PartList, tools: object) -> None:
    """The same of a list of tools alone."""
    _add(parts, "tools", tools, 0)


def _add_tool(parts: PartList, path: str, tool: object) -> None:
    """Add what one tool is said to be, but for what only a provider reads of it."""
    if isinstance(tool, Mapping):
        name = tool.get("type")
        unread = frozenset({"tools"}) if name == "namespace" else _UNREAD if _kind(tool) is not None else frozenset()
        if isinstance(name, str) and _NAMES.fullmatch(name):
            unread |= {"type"}
        tool = {key: value for key, value in tool.items() if key not in unread}
    add_definition(parts, path, tool)


def _add(parts: PartList, path: str, tools: object, depth: int) -> None:
    if not isinstance(tools, list):
        if tools is not None:
            parts.opaque(path, "tool_server")
            add_definition(parts, path, tools)
        return
    for number, tool in enumerate(tools):
        place = f"{path}[{number}]"
        kind = _kind(tool)
        _add_tool(parts, place, tool)
        if kind is not None:
            parts.opaque(place, kind)
        elif isinstance(tool, Mapping) and tool.get("type") == "namespace":
            if depth < _MAX_DEPTH:
                _add(parts, f"{place}.tools", tool.get("tools"), depth + 1)
            else:
                parts.opaque(place, "tool_server")


def _kind(tool: object) -> str | None:
    """What a tool brings in that nobody judges; None for nothing."""
    if not isinstance(tool, Mapping):
        return "tool_server"
    name = tool.get("type")
    if name is None:  # an Anthropic tool of the client, or a Gemini-like one that is named by its key
        return None if "name" in tool or "function" in tool else "tool_server"
    if not isinstance(name, str):
        return "tool_server"
    if name == "namespace" or _CLIENTS.fullmatch(name):
        return None
    kind = next((kind for pattern, kind in _KINDS if pattern.fullmatch(name)), "tool_server")
    return kind if kind != "container" or _has_files(tool) else None


def _has_files(tool: Mapping[str, object]) -> bool:
    """Whether a place to run code in may hold, or fetch, what the request does not. A new and empty one that reaches nothing does not."""
    place = tool.get("container", tool.get("environment"))
    if place is None:
        return False
    if not isinstance(place, Mapping):
        return True
    if place.get("type") == "local":
        return False
    network = place.get("network_policy")
    reaches = network is not None and not (isinstance(network, Mapping) and network.get("type") == "disabled")
    return place.get("type") not in ("auto", "container_auto") or bool(place.get("file_ids")) or bool(place.get("skills")) or reaches
