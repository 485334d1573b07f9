"""Strings in a document of JSON: what could be a text, and what is the name of something."""

import re
from collections.abc import Iterator, Mapping

IDENTIFIER = re.compile(r"[\w.:|/+=-]{0,64}", re.ASCII)
REFERENCES = frozenset({"id", "tool_call_id", "tool_use_id", "call_id", "cache_control", "type", "signature", "status", "detail"})
"""Fields that hold identifiers: what looks like one is none of an answer's words there."""


def strings(value: object) -> Iterator[str]:
    """Every string in a value, in order; keys too where they aren't plain identifiers, because a text can stand there as well."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, child in value.items():
            if not IDENTIFIER.fullmatch(key):
                yield key
            if not (key in REFERENCES and only_identifiers(child)):
                yield from strings(child)
    elif isinstance(value, list):
        for child in value:
            yield from strings(child)


def only_identifiers(value: object) -> bool:
    """Whether a value holds nothing but identifiers, none of them in a list."""
    if isinstance(value, Mapping):
        return all(IDENTIFIER.fullmatch(key) and only_identifiers(child) for key, child in value.items())
    return not isinstance(value, list) and (not isinstance(value, str) or IDENTIFIER.fullmatch(value) is not None)
