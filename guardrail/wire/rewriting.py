"""An answer's document with some of its texts replaced, found again by the paths of its parts."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from guardrail.types import Part
from guardrail.wire.chat import ANSWER_FIELDS, TOLD_FIELDS
from guardrail.wire.document import readable
from guardrail.wire.parts import is_tokens

_STEP = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*)|\[(\d{1,6})\]|\.")
_SPELLED_AGAIN = "logprobs"
_TOKENS = frozenset({"token_ids", "prompt_token_ids", "prompt_logprobs", "top_logprobs"})
_NOT_SPELLED = frozenset({"usage", "arguments", "input", "action", "operation", "tools", "metadata"})
"""What may be numbers of its own: counts, what a tool is called with, what an answer repeats of its request."""
REWRITABLE = frozenset({"text", "reasoning", "refusal"})
"""The kinds of part of which something may be taken out. Arguments of a tool are not: they are executed."""


def rewritable(document: Mapping[str, object], part: Part) -> bool:
    """Whether a part is a string of its own at its path, so that it can be replaced there."""
    holder, key = _found(document, part.path)
    text = _at(holder, key)
    return part.kind in REWRITABLE and part.text is not None and isinstance(text, str) and readable(text) == part.text


def rewritten(document: Mapping[str, object], texts: Mapping[str, str]) -> dict[str, object]:
    """A copy of the document with other texts at these paths, each `rewritable`; what may spell the old ones again is left out (see
    `unspelled`): of an answer of choices all beside them that is not known, of any other what is no text. Choices of which nothing is
    taken out stay as they are."""
    by_choice = isinstance(document.get("choices"), list)
    copy = {key: value for key, value in document.items() if key in ANSWER_FIELDS} if by_choice else unspelled(document)
    for path, text in texts.items():
        steps = _steps(path)
        if by_choice and isinstance(choices := copy["choices"], list) and isinstance(place := _index(choices, steps[1]), int):
            copy["choices"] = [unspelled_choice(choice) if each == place else choice for each, choice in enumerate(choices)]
        copy = _with(copy, steps, text)
    return copy


def unspelled(document: Mapping[str, object]) -> dict[str, object]:
    """A copy without what may spell a text token by token or in numbers: log probabilities, and token ids at any depth.

    What a tool is called with is executed, and stays.
    """
    found: dict[str, object] = {}
    for key, value in document.items():
        if key == _SPELLED_AGAIN:
            found[key] = [] if isinstance(value, list) else None
        elif key in _NOT_SPELLED:
            found[key] = value
        elif key not in _TOKENS and not is_tokens(value):
            found[key] = _unspelled(value)
    return found


def unspelled_choice(choice: Mapping[str, object]) -> dict[str, object]:
    """A choice, or what a frame adds to one, without what may spell its text again, and without whatever of it is not known."""
    return unspelled({key: value for key, value in choice.items() if key in TOLD_FIELDS})


def _unspelled(value: object) -> object:
    if isinstance(value, Mapping):
        return unspelled(value)
    return [_unspelled(child) for child in value if not is_tokens(child)] if isinstance(value, list) else value


def _with(value: Any, steps: Sequence[str | int], text: str) -> Any:
    """A copy of a value, with a text at the end of these steps."""
    if not steps:
        return text
    copy, place = value.copy(), _index(value, steps[0])
    copy[place] = _with(value[place], steps[1:], text)
    return copy


def _steps(path: str) -> list[str | int]:
    """The path's fields and places; none where it is no path to one value."""
    found: list[str | int] = []
    end = 0
    while end < len(path):
        step = _STEP.match(path, end)
        if step is None:
            return []
        end = step.end()
        if step[1] is not None:
            found.append(step[1])
        elif step[2] is not None:
            found.append(int(step[2]))
    return found


def _found(document: Mapping[str, object], path: str) -> tuple[object, str | int | None]:
    """The object or list that holds what lies at a path, and where in it."""
    steps = _steps(path)
    here: object = document
    for step in steps[:-1]:
        here = _at(here, _index(here, step))
    return (here, _index(here, steps[-1])) if steps else (None, None)


def _index(here: object, step: str | int) -> str | int | None:
    """A choice is named by its index, wherever it stands."""
    if isinstance(here, list) and isinstance(step, int) and any(isinstance(item, dict) and "finish_reason" in item for item in here):
        places = [place for place, item in enumerate(here) if isinstance(item, dict) and item.get("index", place) == step]
        return places[0] if len(places) == 1 else None
    return step


def _at(here: object, key: str | int | None) -> object:
    if isinstance(here, Mapping) and isinstance(key, str):
        return here.get(key)
    return here[key] if isinstance(here, list) and isinstance(key, int) and key < len(here) else None
