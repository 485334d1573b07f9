"""An upstream's error answer, made safe to pass on.

It is no model answer and is not judged, but some providers quote one in it (a `failed_generation`, say). So of the body only
OpenAI's own four fields are passed on, and only from a JSON body of that shape; anything else is replaced by a neutral one with
the same status.
"""

import json
from typing import Any

from guardrail.wire.refusal import Reply, failure

MAX_BYTES = 65_536
_MAX_MESSAGE = 2_048
_KEYS = ("message", "type", "param", "code")


def error_reply(status: int, content: bytes) -> Reply:
    """The body to answer an upstream's error status with. `content` longer than MAX_BYTES is not read."""
    fields = _fields(content) if len(content) <= MAX_BYTES else None
    if fields is None:
        return Reply(status, *_json(failure(502, "upstream_error", f"The upstream answered with status {status}.")))
    return Reply(status, (("content-type", "application/json"),), json.dumps({"error": fields}, ensure_ascii=False).encode())


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
    scalars = {key: error.get(key) if isinstance(error.get(key), str | int | None) else None for key in _KEYS}
    return {key: value[:_MAX_MESSAGE] if isinstance(value, str) else value for key, value in scalars.items()}
