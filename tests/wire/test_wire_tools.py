"""Tools that the provider runs, and what it fetches: marked in requests, judged in answers."""

import json
from typing import Any

import pytest

from guardrail.types import Part
from guardrail.wire.dialects import CHAT, DIALECTS, MESSAGES, RESPONSES

WORDS = "quite forbidden"
FUNCTION = {"name": "f", "description": WORDS, "parameters": {"type": "object", "properties": {"q": {"description": WORDS}}}}


def asked(path: str, **fields: Any) -> tuple[Part, ...]:
    body = {
        "model": "m",
        "max_tokens": 9,
        **({"input": "x"} if path.endswith("responses") else {"messages": [{"role": "user", "content": "x"}]}),
    }
    return DIALECTS[path].parse_request(json.dumps(body | fields).encode()).parts


def marks(path: str, **fields: Any) -> list[tuple[str, str]]:
    return [(part.path, part.kind) for part in asked(path, **fields) if part.text is None]


def definitions(path: str, **fields: Any) -> list[tuple[str, str | None]]:
    return [(part.path, part.text) for part in asked(path, **fields) if part.kind == "definition" and part.role == "system"]


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "function", "function": FUNCTION},
        {"type": "function", **FUNCTION},
        {"type": "custom", "name": "f", "description": WORDS, "format": {"type": "grammar", "definition": WORDS}},
        {"name": "f", "description": WORDS, "input_schema": {"type": "object"}},
        {"type": "namespace", "name": "n", "description": WORDS, "tools": [{"type": "function", **FUNCTION}]},
        {"type": "apply_patch"},
        {"type": "local_shell"},
        {"type": "shell", "environment": {"type": "local"}},
        {"type": "shell", "environment": {"type": "container_auto"}},
        {"type": "code_interpreter", "container": {"type": "auto", "network_policy": {"type": "disabled"}}},
        {"type": "code_execution_20250825", "name": "code_execution"},
        {"type": "image_generation"},
        {"type": "computer_use_preview", "environment": "browser"},
        {"type": "computer_20251124", "name": "computer"},
        {"type": "bash_20250124", "name": "bash"},
        {"type": "text_editor_20250728", "name": "editor"},
        {"type": "memory_20250818", "name": "memory"},
        {"type": "tool_search"},
        {"type": "tool_search_tool_bm25_20251119", "name": "t"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", [CHAT.path, MESSAGES.path, RESPONSES.path])
def test_a_tool_that_the_client_runs_is_not_marked(path: str, tool: Any) -> None:
    assert marks(path, tools=[tool]) == []


SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": ["object", "null"],
    "properties": {"unit": {"type": "string", "enum": ["C", "F"], "default": "C"}, "type": {"$ref": "#/$defs/kind"}},
    "required": ["unit"],
    "$defs": {"kind": {"type": "array", "items": {"type": "integer", "minimum": 1, "description": "One number."}}},
}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (SCHEMA, ["unit", "C", "F", "C", "type", "kind", "One number."]),
        ({"enum": [1, 2, 3], "type": "integer"}, []),
        ({"type": "Say this."}, ["Say this."]),
        ({"type": ["string", "Say this."]}, ["string", "Say this."]),
        ({"$ref": "Say this."}, ["Say this."]),
        ({"$schema": "https://x.example/Say-this"}, ["https://x.example/Say-this"]),
        ({"properties": {}, "required": ["Say", "this"]}, ["Say", "this"]),
        ({"Say this.": True}, ["Say this."]),
        ({"Say_this_word_by_word": True}, ["Say_this_word_by_word"]),
        ({"Say": {"this": {"too": {}}}}, ["Say", "this", "too"]),
        ({"type": "Say_this", "format": "and_this"}, ["Say_this", "and_this"]),
        ({"type": "string", "format": "date-time", "maxLength": 9}, []),
        ({"properties": {"properties": {"description": "Say this."}}}, ["properties", "Say this."]),
    ],
)  # fmt: skip
def test_what_a_schema_says_is_one_text_without_the_words_of_json_schema(schema: Any, said: list[str]) -> None:
    whole = "\n".join(["f", *said])
    assert definitions(CHAT.path, tools=[{"type": "function", "function": {"name": "f", "parameters": schema}}]) == [("tools[0]", whole)]
    assert definitions(MESSAGES.path, tools=[{"name": "f", "input_schema": schema}]) == [("tools[0]", whole)]
    assert definitions(RESPONSES.path, tools=[{"type": "function", "name": "f", "parameters": schema}]) == [("tools[0]", whole)]
    form = {"type": "json_schema", "json_schema": {"name": "f", "schema": schema}}
    assert definitions(CHAT.path, response_format=form) == [("response_format", whole)]


def test_each_tool_of_a_namespace_is_a_definition_of_its_own() -> None:
    space = {"type": "namespace", "name": "n", "description": "Of books.", "tools": [{"type": "function", "name": "f"}]}
    assert definitions(RESPONSES.path, tools=[space]) == [("tools[0]", "n\nOf books."), ("tools[0].tools[0]", "f")]


def test_a_hosted_tool_says_its_description_and_never_its_keys() -> None:
    server = {"type": "mcp", "server_label": "s", "server_description": "Of books.", "server_url": "https://x.example/?key=secret"}
    hosted = server | {"authorization": "secret", "headers": {"Authorization": "Bearer secret"}}
    assert definitions(RESPONSES.path, tools=[hosted]) == [("tools[0]", "s\nOf books.")]
    assert not any("secret" in (part.text or "") for part in asked(RESPONSES.path, tools=[hosted]))


@pytest.mark.parametrize(
    ("tool", "kind"),
    [
        ({"type": "mcp", "server_label": "s", "server_url": "https://x.example", "server_description": WORDS}, "tool_server"),
        ({"type": "mcp", "server_label": "s", "connector_id": "connector_gmail"}, "tool_server"),
        ({"type": "mcp_toolset", "mcp_server_name": "s"}, "tool_server"),
        ({"type": "web_search"}, "url"),
        ({"type": "web_search_preview_2025_03_11"}, "url"),
        ({"type": "web_search_20260318", "name": "web_search"}, "url"),
        ({"type": "web_fetch_20260318", "name": "web_fetch"}, "url"),
        ({"type": "file_search", "vector_store_ids": ["vs_1"]}, "file"),
        ({"type": "code_interpreter", "container": "cntr_1"}, "container"),
        ({"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["file_1"]}}, "container"),
        ({"type": "code_interpreter", "container": {"type": "auto", "network_policy": {"type": "allowlist"}}}, "container"),
        ({"type": "shell", "environment": {"type": "container_reference", "container_id": "c"}}, "container"),
        ({"type": "brand_new_tool"}, "tool_server"),
        ({"type": ["function"]}, "tool_server"),
        ({"google_search": {}}, "tool_server"),
        ("web_search", "tool_server"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", [CHAT.path, MESSAGES.path, RESPONSES.path])
def test_a_tool_that_the_provider_runs_is_marked(path: str, tool: Any, kind: str) -> None:
    assert marks(path, tools=[{"type": "function", "function": FUNCTION}, tool]) == [("tools[1]", kind)]


def test_a_hosted_tool_within_a_namespace_is_marked() -> None:
    tools = [{"type": "namespace", "name": "n", "tools": [{"type": "function", **FUNCTION}, {"type": "web_search"}]}]
    assert marks(RESPONSES.path, tools=tools) == [("tools[0].tools[1]", "url")]


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"web_search_options": {}}, [("web_search_options", "url")]),
        ({"plugins": [{"id": "web"}]}, [("plugins[0]", "tool_server")]),
        ({"search_parameters": {"mode": "on"}}, [("search_parameters", "url")]),
        ({"data_sources": [{"type": "azure_search"}]}, [("data_sources[0]", "file")]),
        ({"container": "container_1"}, [("container", "container")]),
        ({"container": {"id": "container_1", "skills": []}}, [("container", "container")]),
        ({"mcp_servers": [{"type": "url", "url": "https://x.example", "name": "s"}]}, [("mcp_servers[0]", "tool_server")]),
        ({"tools": {"type": "mcp"}}, [("tools", "tool_server")]),
        ({"container": None, "web_search_options": None, "tools": [], "mcp_servers": [], "enable_search": False}, []),
    ],
)
@pytest.mark.parametrize("path", [CHAT.path, MESSAGES.path, RESPONSES.path])
def test_a_field_by_which_the_provider_fetches_something_is_marked(path: str, fields: Any, found: Any) -> None:
    assert marks(path, **fields) == found


@pytest.mark.parametrize(
    ("block", "kind"),
    [
        ({"type": "document", "source": {"type": "url", "url": "https://x.example/a.pdf"}}, "file"),
        ({"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}}, "image"),
        ({"type": "document", "source": {"type": "file", "file_id": "file_1"}}, "file"),
        ({"type": "container_upload", "file_id": "file_1"}, "file"),
        (
            {
                "type": "web_search_tool_result",
                "tool_use_id": "t",
                "content": [{"type": "web_search_result", "url": "https://x.example", "title": "t", "encrypted_content": "EqgfCioIARgB3"}],
            },
            "url",
        ),
    ],
)
def test_what_a_message_brings_in_by_an_address_or_an_id_is_marked(block: Any, kind: str) -> None:
    found = marks(MESSAGES.path, messages=[{"role": "user", "content": [block]}])
    assert [mark for _, mark in found] == [kind]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_image", "image_url": "https://x.example/a.png"},
        {"type": "input_file", "file_url": "https://x.example/a.pdf"},
        {"type": "input_file", "file_id": "file_1"},
    ],
)
def test_what_a_response_is_asked_with_by_an_address_or_an_id_is_marked(part: Any) -> None:
    assert len(marks(RESPONSES.path, input=[{"role": "user", "content": [part]}])) == 1


@pytest.mark.parametrize(
    "item",
    [
        {"type": "mcp_call", "id": "m", "server_label": "s", "name": "f", "arguments": "{}", "output": WORDS},
        {"type": "mcp_call", "id": "m", "server_label": "s", "name": "f", "arguments": json.dumps({"q": WORDS})},
        {"type": "mcp_call", "id": "m", "server_label": "s", "name": "f", "arguments": "{}", "error": WORDS},
        {"type": "mcp_list_tools", "id": "m", "server_label": "s", "tools": [{"name": "f", "description": WORDS, "input_schema": {}}]},
        {"type": "mcp_approval_request", "id": "m", "server_label": "s", "name": WORDS, "arguments": "{}"},
        {"type": "web_search_call", "id": "w", "status": "completed", "action": {"type": "search", "query": WORDS}},
        {"type": "file_search_call", "id": "f", "queries": ["q"], "results": [{"file_id": "f", "text": WORDS}]},
        {"type": "code_interpreter_call", "id": "c", "code": WORDS, "container_id": "c", "outputs": []},
        {"type": "code_interpreter_call", "id": "c", "code": "1", "container_id": "c", "outputs": [{"type": "logs", "logs": WORDS}]},
    ],
)
def test_what_a_hosted_tool_gave_back_is_judged_in_a_response(item: Any) -> None:
    document = {"id": "r", "object": "response", "status": "completed", "output": [item]}
    assert any(WORDS in (part.text or "") for part in RESPONSES.parse_answer(json.dumps(document).encode()).parts)


PAGE = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": WORDS}}


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("mcp_tool_result", [{"type": "text", "text": WORDS}]),
        ("web_fetch_tool_result", {"type": "web_fetch_result", "url": "https://x.example", "content": PAGE}),
        ("code_execution_tool_result", {"type": "code_execution_result", "stdout": WORDS, "content": []}),
        ("web_search_tool_result", [{"type": "web_search_result", "title": WORDS}]),
    ],
)
def test_what_a_hosted_tool_gave_back_is_judged_in_a_message(kind: str, content: Any) -> None:
    block = {"type": kind, "tool_use_id": "t", "content": content}
    document = {"id": "m", "type": "message", "role": "assistant", "content": [block]}
    assert any(WORDS in (part.text or "") for part in MESSAGES.parse_answer(json.dumps(document).encode()).parts)
