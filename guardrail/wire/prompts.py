"""Prompts that are no messages: a string, a list of them, or token ids, which only the model's tokenizer can read."""

import re

from guardrail.wire.parts import PartList, is_tokens

_NUMBER = re.compile(r"\s*[+-]?\d[\d_]*\s*")


def add_prompt(parts: PartList, path: str, value: object) -> None:
    """Add each prompt in `value`. Token ids, and numbers written as strings that could be read as such, are marked unreadable."""
    if isinstance(value, list) and not is_tokens(value) and value:
        for number, item in enumerate(value):
            _add_item(parts, f"{path}[{number}]", item)
        if all(isinstance(item, str) and _NUMBER.fullmatch(item) for item in value):
            parts.opaque(path, "tokens")
    elif isinstance(value, str):
        parts.text(path, value)
    elif is_tokens(value):
        parts.opaque(path, "tokens")
    elif value is not None and value != []:
        parts.unknown(path, value)
        parts.opaque(path, "unknown")


def count(value: object) -> int:
    """How many prompts there are in it: each is answered by itself."""
    if isinstance(value, list) and value and not all(isinstance(item, int) for item in value):
        return len(value)
    return 1


def _add_item(parts: PartList, path: str, item: object) -> None:
    if isinstance(item, str):
        parts.text(path, item)
    elif isinstance(item, dict):
        parts.content(path, [item])
    elif is_tokens(item):
        parts.opaque(path, "tokens")
    elif item is not None:
        parts.unknown(path, item)
        parts.opaque(path, "unknown")
