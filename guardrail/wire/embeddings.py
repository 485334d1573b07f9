"""OpenAI embeddings: the input is judged; the answer is numbers, and what stands beside them is judged as well."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from guardrail.errors import UpstreamError, WireError
from guardrail.types import Part
from guardrail.wire import fields
from guardrail.wire.chat import ANSWER_EXTRAS, ANSWER_FIELDS, FilterResults
from guardrail.wire.document import UnreadableError, dump, parse_object
from guardrail.wire.parts import PartList, TooManyPartsError
from guardrail.wire.prompts import add_prompt

_REQUEST_FIELDS = frozenset(["model", "input", "messages", "dimensions", "encoding_format", "user", "truncate_prompt_tokens", "priority"])
_REQUEST_NAMES = fields.by_case(_REQUEST_FIELDS)
_ITEM_FIELDS = frozenset({"object", "index", "embedding"})
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")


@dataclass(frozen=True)
class EmbeddingsRequest:
    """A request for vectors; it has no stream."""

    model: str
    document: Mapping[str, object] = field(repr=False)
    stream: bool = False

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Each input, token ids as a part that cannot be read. Raises WireError (400)."""
        parts = PartList()
        try:
            add_prompt(parts, "input", self.document.get("input"))
            messages = self.document.get("messages")  # what some servers take instead, for pictures and templates
            for number, message in enumerate(messages if isinstance(messages, list) else ()):
                if not isinstance(message, dict):
                    raise WireError(400, "invalid_messages", f"messages[{number}] must be an object.", param="messages")
                parts.message(f"messages[{number}]", message)
            parts.role = "user"
            parts.rest("body", self.document, _REQUEST_FIELDS)
        except TooManyPartsError as error:
            raise WireError(400, "too_many_parts", f"The request holds {error}.", param="input") from None
        return tuple(parts.found)


@dataclass(frozen=True, slots=True)
class EmbeddingsAnswer:
    """Vectors, and the parts that are none."""

    document: Mapping[str, object]
    parts: tuple[Part, ...]
    finish_reasons: Mapping[int, str | None]
    usage: Mapping[str, object] | None


def parse_embeddings_request(body: bytes) -> EmbeddingsRequest:
    """The request in `body`. Raises WireError (400)."""
    document = fields.read_object(body)
    fields.refuse_case_variants(document, _REQUEST_NAMES)
    messages = document.get("messages")
    if messages is not None and not isinstance(messages, list):
        raise WireError(400, "invalid_messages", "messages must be a list.", param="messages")
    return EmbeddingsRequest(fields.model(document), document)


def parse_embeddings_answer(body: bytes) -> EmbeddingsAnswer:
    """The answer in `body`. Raises UpstreamError: `malformed` for anything but a list of embeddings, `too_large` for too many parts."""
    try:
        document = parse_object(body)
    except UnreadableError as error:
        raise UpstreamError("malformed", f"the upstream's answer cannot be read: {error}") from None
    items = document.get("data")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise UpstreamError("malformed", "the upstream's answer holds no list of embeddings")
    parts = PartList()
    parts.choice, parts.role = 0, "assistant"
    try:
        for number, item in enumerate(items):
            if not _is_vector(item.get("embedding")):
                parts.unknown(f"data[{number}].embedding", item.get("embedding"))
            parts.rest(f"data[{number}]", item, _ITEM_FIELDS)
        parts.rest("answer", document, (ANSWER_FIELDS - {"choices"}) | ANSWER_EXTRAS | {"data"})
    except TooManyPartsError as error:
        raise UpstreamError("too_large", f"the upstream's answer holds {error}") from None
    usage = document.get("usage")
    return EmbeddingsAnswer(document, tuple(parts.found), {0: None}, usage if isinstance(usage, dict) else None)


def without_embeddings(answer: EmbeddingsAnswer, blocked: Mapping[int, FilterResults], notice: str | None) -> bytes:
    """The answer with nothing in it but its model and usage: what was blocked stood beside the vectors."""
    del notice
    if not blocked:
        return dump(answer.document)
    kept = {key: value for key, value in answer.document.items() if key in ANSWER_FIELDS - {"choices"}}
    results = {policy: dict(result) for policy, result in blocked.get(0, {}).items()}
    return dump({**kept, "data": [], "content_filter_results": results})


def _is_vector(value: object) -> bool:
    if isinstance(value, list):
        return all(isinstance(number, int | float) and not isinstance(number, bool) for number in value)
    return isinstance(value, str) and _BASE64.fullmatch(value) is not None
