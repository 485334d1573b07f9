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
# Of JSON Schema and of the protocols' own definitions. Any other key is a word like all that are not here.
_KEYS = frozenset(
    {
        *("$schema", "$ref", "$id", "$defs", "$comment", "$anchor", "$dynamicRef", "$dynamicAnchor", "$vocabulary", "definitions"),
        *("type", "format", "title", "description", "default", "examples", "enum", "const", "deprecated", "readOnly", "writeOnly"),
        *("properties", "patternProperties", "additionalProperties", "unevaluatedProperties", "propertyNames", "required"),
        *("minProperties", "maxProperties", "dependentRequired", "dependentSchemas", "dependencies", "items", "prefixItems"),
        *("additionalItems", "unevaluatedItems", "contains", "minContains", "maxContains", "minItems", "maxItems", "uniqueItems"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern"),
        *("contentEncoding", "contentMediaType", "contentSchema", "anyOf", "oneOf", "allOf", "not", "if", "then", "else", "nullable"),
        *("function", "name", "parameters", "strict", "json_schema", "schema", "input_schema", "output_schema", "custom", "grammar"),
        *("definition", "syntax", "tools", "cache_control", "ttl", "eager_input_streaming", "defer_loading", "allowed_callers"),
        *("input_examples", "environment", "display_width_px", "display_height_px", "display_number", "max_uses", "annotations"),
        *("server_label", "server_description"),
    }
)
_FORMATS = frozenset(
    {
        *("date-time", "date", "time", "duration", "email", "idn-email", "hostname", "idn-hostname", "ipv4", "ipv6", "uri", "url"),
        *("uri-reference", "uri-template", "iri", "iri-reference", "uuid", "regex", "json-pointer", "relative-json-pointer", "int32"),
        *("int64", "uint32", "uint64", "float", "double", "byte", "binary", "password", "decimal"),
    }
)
_TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
_KINDS = _TYPES | {
    *("function", "custom", "json_schema", "json_object", "text", "grammar", "ephemeral", "local", "container_auto", "auto", "disabled"),
}
UNREAD = frozenset({"model", "metadata", "stop", "stop_sequences", "user", "safety_identifier", "prompt_cache_key"})
"""Fields of a request that no model reads."""
_LISTS = frozenset({"modalities", "include", "betas"})  # of names, several of which are no sentence
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
            if named or key not in _KEYS:
                yield key
            if named:
                yield from _said(child)
            elif not _plain(key, child, value):
                yield from _said(child, named=key in _NAMING)


def _plain(key: str, child: object, holder: Mapping[str, object]) -> bool:
    """Whether a field holds words of JSON Schema alone, or names that stand beside it."""
    if isinstance(child, str):
        if key in ("$schema", "$ref"):
            return _REFERENCE.fullmatch(child) is not None
        return (key == "type" and child in _KINDS) or (key == "format" and child in _FORMATS) or (key == "ttl" and child in ("5m", "1h"))
    known: object = _TYPES if key == "type" else holder.get("properties") if key == "required" else None
    return (
        isinstance(child, list)
        and isinstance(known, frozenset | Mapping)
        and all(isinstance(each, str) and each in known for each in child)
    )
