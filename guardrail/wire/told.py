"""What a protocol's own fields of an answer say beside names: nothing, as providers have it. Prose in them is judged like any text, and
left out where something of the answer is taken out, or goes out before it is judged."""

import re
from collections.abc import Iterable, Mapping

from guardrail.wire.parts import PartList, strings

TOLD = "told"
"""The field in which a collected stream keeps what its frames said so."""

_NAME = re.compile(r"[\w.:|/+=@~-]{0,512}", re.ASCII)


def told(holder: Mapping[str, object], names: Iterable[str]) -> list[str]:
    """The strings in these fields that are no names, each once."""
    said = strings([{name: holder[name]} for name in sorted(set(names) & holder.keys())])
    return list(dict.fromkeys(text for text in said if not _NAME.fullmatch(text)))


def add_told(parts: PartList, path: str, holder: Mapping[str, object], names: Iterable[str]) -> None:
    """Add them as one text."""
    parts.text(f"{path}.{TOLD}", "\n".join(told(holder, names)), "unknown")


def bare(holder: Mapping[str, object], names: Iterable[str]) -> dict[str, object]:
    """The same with nothing but names in these fields: "" stands for any other string."""
    known = set(names)
    return {key: _named(value) if key in known else value for key, value in holder.items()}


def _named(value: object) -> object:
    if isinstance(value, str):
        return value if _NAME.fullmatch(value) else ""
    if isinstance(value, list):
        return [_named(child) for child in value]
    if isinstance(value, Mapping):
        return {key: _named(child) for key, child in value.items() if _NAME.fullmatch(key)}
    return value
