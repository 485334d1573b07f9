"""The matrix of clients in docs/clients.md, made of the tables that the contract tests run (`python tests/contract/contract_matrix.py`)."""

from collections.abc import Iterator
from pathlib import Path

from contract_clients import CLIENTS, HELPERS
from contract_protocols import OTHERS

DOCUMENT = Path(__file__).parents[2] / "docs" / "clients.md"
_PATHS = {"completions": "/v1/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
_NAMES = {
    "openai": "openai",
    "openai-helpers": "openai, `.parse()` and `.stream()`",
    "langchain": "langchain-openai",
    "litellm": "litellm",
    "helper": "openai, `.parse()` and `.stream()`",
    "anthropic": "anthropic, `.stream()`",
    "anthropic-raw": "anthropic, `stream=True`",
}
_HEAD = """# Clients

What an unmodified client makes of the proxy. Each cell is a test in `tests/contract`, against a proxy and an upstream on loopback ports;
this file is made of the same tables (`python tests/contract/contract_matrix.py`), and a test fails where it is out of date.

A blocked prompt never reaches the model and is asked for once, with two retries allowed; of a withheld answer no word is sent.

| client | endpoint | answer | allowed | blocked prompt | blocked answer |
|---|---|---|---|---|---|
"""


def rows() -> Iterator[tuple[str, str, str, str, str, str]]:
    """Client, endpoint, whole or streamed, and what the caller holds: of an allowed exchange, a blocked prompt, a blocked answer."""
    for name in CLIENTS:
        error = "`ContentPolicyViolationError`" if name == "litellm" else "`BadRequestError`"
        yield from _both(name, "/v1/chat/completions", "`stop`", f"{error}, `content_filter`", "`content_filter`")
    for name in HELPERS:
        raised = "`ContentFilterFinishReasonError`"
        yield from _both(name, "/v1/chat/completions", "`stop`", "`BadRequestError`, `content_filter`", raised)
    for name, (_, ended, withheld) in OTHERS.items():
        protocol, _, client = name.partition("-")
        yield from _both(client, _PATHS[protocol], f"`{ended}`", "`BadRequestError`", f"`{withheld}`")
    yield "openai", "/v1/moderations", "whole", "`flagged: false`", "`flagged: true`", "-"
    yield "openai", "/v1/embeddings", "whole", "vectors", "`BadRequestError`", "-"


def _both(client: str, path: str, *cells: str) -> Iterator[tuple[str, str, str, str, str, str]]:
    for way in ("whole", "streamed"):
        yield _NAMES[client], path, way, cells[0], cells[1], cells[2]


def document() -> str:
    """The whole file."""
    return _HEAD + "".join(f"| {' | '.join((name, f'`{path}`', *rest))} |\n" for name, path, *rest in rows())


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
