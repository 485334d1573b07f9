"""Flat dataclasses as JSON objects and back: every field must be there, of its declared type, and nothing beside them."""

from collections.abc import Mapping
from dataclasses import fields
from enum import IntEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from guardrail.engine.cope.process.wire import FrameError

T = TypeVar("T")


def document(value: Any, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """A dataclass instance as JSON types, less the fields that travel otherwise."""
    named = {field.name: getattr(value, field.name) for field in fields(value) if field.name not in without}
    return {name: dict(entry) if isinstance(entry, Mapping) else entry for name, entry in named.items()}


def record(kind: type[T], entry: object, **given: Any) -> T:
    """A `kind` out of what `document` made and the fields that travelled otherwise. Raises FrameError for anything else."""
    hints = {name: hint for name, hint in _hints(kind).items() if name not in given}  # type: ignore[arg-type]  # (a class is hashable)
    if not isinstance(entry, dict) or entry.keys() != hints.keys():
        raise FrameError(f"{kind.__name__} has the fields {', '.join(hints)}")
    return kind(**{name: _value(hint, entry[name], f"{kind.__name__}.{name}") for name, hint in hints.items()}, **given)


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _value(hint: Any, value: object, place: str) -> Any:
    if isinstance(hint, UnionType):
        options = [option for option in get_args(hint) if option is not NoneType]
        return None if value is None else _value(options[0], value, place)
    if get_origin(hint) is Literal and value in get_args(hint):
        return value
    if get_origin(hint) is Mapping or hint is Mapping:
        inner = get_args(hint)[1]
        if isinstance(value, dict):
            return {name: _value(inner, item, place) for name, item in value.items()}
    elif isinstance(hint, type):
        if issubclass(hint, IntEnum) and type(value) is int and value in list(hint):
            return hint(value)
        if type(value) is hint:
            return value
        if hint is float and type(value) is int and abs(value) < 1 << 53:
            return float(value)
    raise FrameError(f"{place} is not {getattr(hint, '__name__', hint)}")
