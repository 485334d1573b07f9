"""An upstream's error answer, made safe to pass on where answers are judged.

It is no model answer and is not judged, but providers quote one in it, in the message or beside it (a `failed_generation`, say). So
only what looks like an identifier is passed on of OpenAI's `type`, `param` and `code`, with a neutral message and the same status.
"""

import json
import re
from typing import Any

from guardrail.wire.refusal import Reply, failure

MAX_BYTES = 65_536
_IDENTIFIER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\[\]-]{0,63}")
_KEYS = ("type", "param", "code")


def error_reply(status: int, content: bytes) -> Reply:
    """The body to answer an upstream's error status with. `content` longer than MAX_BYTES is not read."""
    message = f"The upstream answered with status {status}."
    fields = _fields(content) if len(content) <= MAX_BYTES else None
    if fields is None:
        return Reply(status, *_json(failure(502, "upstream_error", message)))
    return Reply(status, (("content-type", "application/json"),), json.dumps({"error": {"message": message, **fields}}).encode())


def _json(reply: Reply) -> tuple[tuple[tuple[str, str], ...], bytes]:
    return reply.headers, reply.body


def _fields(content: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return None
    return {key: _identifier(error.get(key)) for key in _KEYS}


def _identifier(value: object) -> str | int | None:
    if isinstance(value, int) and -1 <= value <= 999_999:  # some providers give a status as `code`
        return value
    return value if isinstance(value, str) and _IDENTIFIER.fullmatch(value) else None
