"""The stored turns that a Responses request continues (`previous_response_id`), read from what the upstream says of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from guardrail.types import Part
from guardrail.wire.document import UnreadableError, parse_object
from guardrail.wire.items import add_item, is_reference
from guardrail.wire.request import request_parts

FIELD = "previous_response_id"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_WHOLE = frozenset({"completed", "incomplete"})


def is_id(value: object) -> bool:
    """Whether it looks like a response's or an item's id, so that it can stand in a path."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """One stored turn's answer, and the turn before it, None for the first."""

    items: tuple[object, ...]
    previous: str | None


@dataclass(frozen=True, slots=True)
class StoredPage:
    """Some of the items that a stored turn was asked with; `after` is where the next page starts, None for the last."""

    items: tuple[object, ...]
    after: str | None


def read_stored_response(body: bytes, wanted: str) -> StoredResponse:
    """The stored turn `wanted`. Raises UnreadableError for another, for one that is not whole or stands on what cannot be read."""
    document = parse_object(body)
    output, previous = document.get("output"), document.get("previous_response_id")
    if document.get("object") != "response" or document.get("id") != wanted or not isinstance(output, list):
        raise UnreadableError("the upstream's stored turn is not the response that was asked for")
    if document.get("status") not in _WHOLE:
        raise UnreadableError("a stored turn is not whole")
    if document.get("conversation") is not None or document.get("prompt") is not None:
        raise UnreadableError("a stored turn stands on a conversation or a prompt that are stored elsewhere")
    if previous is not None and not is_id(previous):
        raise UnreadableError("a stored turn names a turn before it that is none")
    return StoredResponse(_readable(output), str(previous) if previous is not None else None)


def read_stored_page(body: bytes) -> StoredPage:
    """A page of a stored turn's input. Raises UnreadableError for anything else."""
    document = parse_object(body)
    items, more, last = document.get("data"), document.get("has_more", False), document.get("last_id")
    if document.get("object") != "list" or not isinstance(items, list) or not isinstance(more, bool):
        raise UnreadableError("the upstream's stored input is no list of items")
    if more and not (items and is_id(last)):
        raise UnreadableError("the upstream's stored input goes on without saying where")
    return StoredPage(_readable(items), str(last) if more else None)


def stored_parts(place: int, asked: tuple[object, ...], answered: tuple[object, ...]) -> tuple[Part, ...]:
    """The parts of one stored turn, `place` turns before the one that is asked for. Raises WireError (400) for too many."""
    with request_parts(FIELD) as parts:
        for name, items, role in (("input", asked, "user"), ("output", answered, "assistant")):
            for number, item in enumerate(items):
                parts.role = role
                add_item(parts, f"{FIELD}[{place}].{name}[{number}]", item, role)
    return tuple(parts.found)


def _readable(items: list[object]) -> tuple[object, ...]:
    """The items without the model's own reasoning that nobody is shown. Raises UnreadableError for one that stands for another."""
    kept = [item for item in items if not (isinstance(item, Mapping) and item.get("type") == "reasoning" and is_reference(item))]
    if any(map(is_reference, kept)):
        raise UnreadableError("a stored turn holds an item that stands for another one")
    return tuple(kept)
