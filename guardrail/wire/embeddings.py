"""OpenAI embeddings: the input is judged; the answer is numbers, and what stands beside them is judged as well."""

import re
from collections.abc import Mapping

from guardrail.errors import UpstreamError, WireError
from guardrail.wire import fields
from guardrail.wire.answer import Answer, FilterResults, answer_parts, made, plain
from guardrail.wire.chat import ANSWER_EXTRAS, ANSWER_FIELDS, WORDS
from guardrail.wire.definitions import add_settings
from guardrail.wire.document import dump
from guardrail.wire.parts import PartList
from guardrail.wire.prompts import add_prompt
from guardrail.wire.request import Request
from guardrail.wire.told import add_told, bare

_REQUEST_FIELDS = frozenset(["model", "input", "messages", "dimensions", "encoding_format", "user", "truncate_prompt_tokens", "priority"])
_REQUEST_NAMES = fields.by_case(_REQUEST_FIELDS)
_ITEM_FIELDS = frozenset({"object", "index", "embedding"})
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")


def read_embeddings_request(document: Mapping[str, object]) -> Request:
    """The request in a parsed document; it has no stream. Raises WireError (400)."""
    fields.refuse_case_variants(document, _REQUEST_NAMES)
    messages = document.get("messages")
    if messages is not None and not isinstance(messages, list):
        raise WireError(400, "invalid_messages", "messages must be a list.", param="messages")
    return Request(fields.model(document), False, document, "input", _add_request)


def read_embeddings(document: Mapping[str, object]) -> Answer:
    """The answer in a parsed document.

    Raises UpstreamError: `malformed` for anything but a list of embeddings, `too_large` for too many parts.
    """
    items = document.get("data")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise UpstreamError("malformed", "the upstream's answer holds no list of embeddings")
    with answer_parts() as parts:
        for number, item in enumerate(items):
            if not _is_vector(item.get("embedding")):
                parts.unknown(f"data[{number}].embedding", item.get("embedding"))
            parts.rest(f"data[{number}]", item, _ITEM_FIELDS)
        add_told(parts, "answer", document, WORDS)
        parts.rest("answer", document, (ANSWER_FIELDS - {"choices"}) | ANSWER_EXTRAS | {"data"})
    return made(document, parts, {0: None})


def without_embeddings(answer: Answer, blocked: Mapping[int, FilterResults], notice: str | None) -> bytes:
    """The answer with nothing in it but its model and usage: what was blocked stood beside the vectors."""
    del notice
    if not blocked:
        return dump(answer.document)
    kept = {key: value for key, value in answer.document.items() if key in ANSWER_FIELDS - {"choices"}}
    return dump({**bare(kept, WORDS), "data": [], "content_filter_results": plain(blocked.get(0, {}))})


def _add_request(parts: PartList, document: Mapping[str, object]) -> None:
    add_prompt(parts, "input", document.get("input"))
    messages = document.get("messages")  # what some servers take instead, for pictures and templates
    for number, message in enumerate(messages if isinstance(messages, list) else ()):
        if not isinstance(message, dict):
            raise WireError(400, "invalid_messages", f"messages[{number}] must be an object.", param="messages")
        parts.message(f"messages[{number}]", message)
    parts.role = "user"
    add_settings(parts, document, _REQUEST_FIELDS - {"input", "messages"})
    parts.rest("body", document, _REQUEST_FIELDS)


def _is_vector(value: object) -> bool:
    if isinstance(value, list):
        return all(isinstance(number, int | float) and not isinstance(number, bool) for number in value)
    return isinstance(value, str) and _BASE64.fullmatch(value) is not None
