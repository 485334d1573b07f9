"""What validation found, in the words of the person who wrote the file: which value, what is allowed, what to do.

Values that may be secret (keys, addresses) are never repeated, nor are values that stand where another type belongs.
"""

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from pydantic_core import ErrorDetails

from guardrail.config import backends, models
from guardrail.config.breakers import BreakerConfig, BreakersConfig
from guardrail.config.codes import Code
from guardrail.config.console import ConsoleConfig
from guardrail.config.document import Source
from guardrail.config.fields import Section
from guardrail.config.limits import LimitsConfig
from guardrail.config.streaming import StreamConfig
from guardrail.errors import Finding

_SECRET = frozenset({"api_keys", "api_key_env", "admin_key", "base_url", "trace_url"})
_SHOWN_CHARS = 60

_EXPECTED = MappingProxyType(
    {
        "model_type": "a mapping",
        "model_attributes_type": "a mapping",
        "dict_type": "a mapping",
        "mapping_type": "a mapping",
        "tuple_type": "a list",
        "string_type": "text",
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "bool_type": "true or false",
    }
)
_BOUNDS = MappingProxyType(
    {
        "greater_than_equal": ("ge", "at least"),
        "greater_than": ("gt", "more than"),
        "less_than_equal": ("le", "at most"),
        "less_than": ("lt", "less than"),
    }
)
_LENGTHS = MappingProxyType(
    {
        "string_too_short": ("min_length", "at least", "characters"),
        "string_too_long": ("max_length", "at most", "characters"),
        "too_long": ("max_length", "at most", "entries"),
        "too_short": ("min_length", "at least", "entries"),
    }
)
_PATTERNS = MappingProxyType(
    {
        "api_key_env": "is not the name of an environment variable (capitals, digits, _); never write the key itself",
        "factory": "is not an import string like mypackage.module:make",
        "model_prefix": "must name the provider and end in /, like anthropic/",
    }
)
_NAME_RULE = "is not a name: letters, digits and . _ - only, the first a letter or digit, at most 64"
_OWN = MappingProxyType({"plaintext_key": Code.PLAINTEXT_KEY, "bad_key_hash": Code.BAD_KEY_HASH, "bad_url": Code.BAD_URL})
_KINDS: Mapping[str, Mapping[str, type[Section]]] = MappingProxyType(
    {
        "upstreams": {"openai": backends.OpenAIUpstream, "embedded": backends.EmbeddedUpstream, "litellm": backends.LiteLLMUpstream},
        "classifiers": {"embedded": backends.EmbeddedClassifier, "custom": backends.CustomClassifier},
    }
)
_SECTIONS: Mapping[str, type[Section]] = MappingProxyType(
    {
        "server": models.ServerConfig,
        "policies": models.PoliciesConfig,
        "telemetry": models.TelemetryConfig,
        "breakers": BreakersConfig,
        "console": ConsoleConfig,
    }
)


def findings(errors: Iterable[ErrorDetails], source: Source) -> list[Finding]:
    """One finding for each validation error, at the line of the value it is about."""
    found = []
    for error in errors:
        code, message = _message(error)
        found.append(source.finding(_written(error["loc"]), code, message))
    return found


def suggest(name: str, known: Iterable[str]) -> str:
    """The remedy for an unknown name: a near match, else the known ones."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(names)}" if names else "there are none"


def _message(error: ErrorDetails) -> tuple[Code, str]:
    kind, loc, context = error["type"], error["loc"], error.get("ctx", {})
    place = _place(_written(loc))
    if kind == "extra_forbidden":
        section = _section(loc[:-1])
        known = [key for key in section.model_fields if key != "kind"] if section else []
        return Code.UNKNOWN_KEY, f"unknown key {loc[-1]!r} in {_place(_written(loc[:-1]))}: {suggest(str(loc[-1]), known)}"
    if kind == "missing":
        section = _section(loc[:-1])
        remedy = section.model_fields[str(loc[-1])].description if section else ""
        return Code.MISSING_KEY, f"{_place(_written(loc[:-1]))} lacks {str(loc[-1])!r}: {remedy}"
    if kind in _OWN:
        return _OWN[kind], f"{place} {error['msg']}"
    if kind in ("literal_error", "union_tag_invalid", "union_tag_not_found"):
        return _choice(error, place)
    if kind in _EXPECTED:
        expected = "a policy id (or a mapping with one)" if context.get("class_name") == "PolicyUse" else _EXPECTED[kind]
        return Code.BAD_VALUE, f"{place} is {_word(error['input'])}, where {expected} belongs{_quotes(kind, error['input'])}"
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return Code.OUT_OF_RANGE, f"{place} is {_shown(error)}, and must be {words} {_number(context[bound])}"
    if kind in _LENGTHS:
        bound, words, unit = _LENGTHS[kind]
        return Code.OUT_OF_RANGE, f"{place} must have {words} {context[bound]} {unit}"
    if kind == "string_pattern_mismatch":
        rule = _PATTERNS.get(str(_written(loc)[-1]), _NAME_RULE)
        return Code.BAD_NAME, f"{place} {rule}"
    said = context["error"] if kind == "value_error" else error["msg"]  # pydantic puts words of its own before ours
    return Code.BAD_VALUE, f"{place}: {said}"


def _choice(error: ErrorDetails, place: str) -> tuple[Code, str]:
    """A value that is not one of the allowed ones, among them `kind`, which pydantic reports on the entry."""
    context, value = error.get("ctx", {}), error["input"]
    key = str(_written(error["loc"])[-1])
    if error["type"] == "union_tag_not_found":
        kinds = _KINDS[str(error["loc"][0])]
        if isinstance(value, Mapping):
            return Code.MISSING_KEY, f"{place} lacks 'kind': one of {', '.join(kinds)}"
        return Code.BAD_VALUE, f"{place} is {_word(value)}, where a mapping with a kind belongs; kind is one of {', '.join(kinds)}"
    if error["type"] == "union_tag_invalid":
        tag, allowed, place = str(context["tag"]), list(_KINDS[str(error["loc"][0])]), f"{place}.kind"
    elif key == "policies":
        return Code.BAD_VALUE, f"{place} is {_shown(error)}; allowed: all, or a list of policy ids"
    else:
        tag, allowed = str(value), [word.strip("'") for word in str(context["expected"]).replace(" or ", ", ").split(", ")]
    near = difflib.get_close_matches(tag, allowed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return Code.BAD_VALUE, f"{place} is {_clip(tag)!r}; allowed: {', '.join(allowed)}{hint}"


def _written(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The location as it stands in the file: without the names of union members that pydantic puts between."""
    if loc and loc[-1] == "[key]":
        loc = loc[:-1]
    if loc and loc[0] in _KINDS and len(loc) > 2:
        return (*loc[:2], *loc[3:])
    if loc and loc[0] == "routes" and len(loc) > 4 and loc[3] == "policies":
        return (*loc[:4], *loc[5:])
    return loc


def _section(loc: tuple[int | str, ...]) -> type[Section] | None:
    """The model of the section at a location as pydantic gives it."""
    match loc:
        case ():
            return models.Config
        case (str(name),):
            return _SECTIONS.get(name)
        case ("upstreams" | "classifiers" as name, _, str(kind)):
            return _KINDS[name].get(kind)
        case ("server", "limits") | ("tenants", _, "limits"):
            return LimitsConfig
        case ("breakers", _):
            return BreakerConfig
        case ("tenants", _):
            return models.TenantConfig
        case ("routes", _):
            return models.RouteConfig
        case ("routes", _, "input" | "output"):
            return models.StageConfig
        case ("routes", _, "stream"):
            return StreamConfig
        case ("routes", _, _, "policies", _, _):
            return models.PolicyUse
    return None


def _place(loc: tuple[int | str, ...]) -> str:
    """`routes[0].mode`, and `the file` for its top."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{_clip(key)}" for key in loc)
    return text.lstrip(".") or "the file"


def _word(value: object) -> str:
    """What kind of value it is; never the value."""
    if value is None:
        return "empty"
    words: dict[type, str] = {bool: "true or false", str: "text", int: "a number", float: "a number", dict: "a mapping", list: "a list"}
    return words.get(type(value), type(value).__name__)


def _quotes(kind: str, value: object) -> str:
    if value is None:
        return "; fill it in, or remove it for the default"
    if kind == "string_type" and isinstance(value, int | float):
        return "; put it in quotes"
    if kind in ("int_type", "float_type") and isinstance(value, str):
        return "; write it without quotes, and without a unit"
    return ""


def _shown(error: ErrorDetails) -> str:
    secret = any(key in _SECRET for key in error["loc"])
    return "hidden here" if secret else _clip(repr(error["input"]))


def _clip(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
