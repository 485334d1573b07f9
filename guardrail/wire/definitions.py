"""What a request tells its model in tool definitions, in the schema of the answer and in settings.

Whoever writes the request writes these, and the model reads them: each definition is one part, of the kind `definition`, which a route may
trust (`definitions: trust`). What settings say beside identifiers and words of the protocol is judged in any case.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

from guardrail.wire.parts import PartList

DEFINITION = "definition"

_IDENTIFIER = re.compile(r"\$?[\w.:|/+=-]{0,64}", re.ASCII)
_REFERENCE = re.compile(r"#(/(\$defs|definitions)/[\w.-]{1,64})?|https?://json-schema\.org/[\w./#-]{1,64}", re.ASCII)
_TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
UNREAD = frozenset({"model", "metadata", "stop", "stop_sequences", "user", "safety_identifier", "prompt_cache_key"})
"""Fields of a request that no model reads."""
_LISTS = frozenset({"modalities", "include", "betas"})  # of names, several of which are no sentence
_WORDS = frozenset({"type", "format", "ttl"})
_NAMING = frozenset({"properties", "patternProperties", "$defs", "definitions"})  # the keys of what they hold are names


def add_definition(parts: PartList, path: str, value: object) -> None:
    """Add what a definition says as one text: names, descriptions, values to choose from. Numbers are none of its words."""
    role, parts.role = parts.role, "system"
    parts.text(path, "\n".join(_said(value)), DEFINITION)
    parts.role = role


def add_settings(parts: PartList, document: Mapping[str, object], names: Iterable[str]) -> None:
    """Add what these fields say beside identifiers: as the protocol has them, they say nothing. `UNREAD` are left out."""
    for name in sorted(set(names) - UNREAD):
        value = document.get(name)
        said = _said(value if name in _LISTS else _run_on(value))
        parts.text(name, "\n".join(each for each in said if not _IDENTIFIER.fullmatch(each)), "unknown")


def _run_on(value: object) -> object:
    """The same with the strings of each list as one: word by word, a sentence would look like names."""
    if isinstance(value, list):
        words = [each for each in value if isinstance(each, str)]
        return [" ".join(words), *(_run_on(each) for each in value if not isinstance(each, str))]
    return {key: _run_on(child) for key, child in value.items()} if isinstance(value, Mapping) else value


def _said(value: object, *, named: bool = False) -> Iterator[str]:
    """The strings in a definition, in order, with the names of properties; without the words of JSON Schema."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for child in value:
            yield from _said(child)
    elif isinstance(value, Mapping):
        for key, child in value.items():
            if named or not _IDENTIFIER.fullmatch(key):
                yield key
            if named:
                yield from _said(child)
            elif not _plain(key, child, value):
                yield from _said(child, named=key in _NAMING)


def _plain(key: str, child: object, holder: Mapping[str, object]) -> bool:
    """Whether a field holds words of JSON Schema alone, or names that stand beside it."""
    if isinstance(child, str):
        return (key in _WORDS and _IDENTIFIER.fullmatch(child) is not None) or (
            key in ("$schema", "$ref") and _REFERENCE.fullmatch(child) is not None
        )
    known: object = _TYPES if key == "type" else holder.get("properties") if key == "required" else None
    return (
        isinstance(child, list)
        and isinstance(known, frozenset | Mapping)
        and all(isinstance(each, str) and each in known for each in child)
    )
