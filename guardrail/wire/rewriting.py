"""An answer's document with some of its texts replaced, found again by the paths of its parts."""

import re
from collections.abc import Mapping

from guardrail.types import Part
from guardrail.wire.chat import TOLD_FIELDS
from guardrail.wire.document import readable
from guardrail.wire.parts import is_tokens

_STEP = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*)|\[(\d{1,6})\]|\.")
_SPELLED_AGAIN = "logprobs"
_IN_CHOICE = 2  # steps of a path: `choices`, and its index
REWRITABLE = frozenset({"text", "reasoning", "refusal"})
"""The kinds of part of which something may be taken out. Arguments of a tool are not: they are executed."""


def rewritable(document: Mapping[str, object], part: Part) -> bool:
    """Whether a part is a string of its own at its path, so that it can be replaced there."""
    holder, key = _found(document, part.path)
    text = _at(holder, key)
    return part.kind in REWRITABLE and part.text is not None and isinstance(text, str) and readable(text) == part.text


def rewritten(document: Mapping[str, object], texts: Mapping[str, str]) -> dict[str, object]:
    """A copy of the document with other texts at these paths, each `rewritable`; what spells the old ones beside them is left
    out: log probabilities and token ids."""
    copy = _copied(document)
    assert isinstance(copy, dict)
    for path, text in texts.items():
        holder, key = _found(copy, path)
        if isinstance(holder, dict | list):
            holder[key] = text  # type: ignore[index]
        _forget(copy, path)
    return copy


def _forget(document: dict[str, object], path: str) -> None:
    """Leave out what spells a text again, in every object on the way to its path: a choice's or a content part's log probabilities, token
    ids, and whatever of a choice is not known."""
    here: object = document
    steps = _steps(path)
    for depth, step in enumerate(steps):
        if isinstance(here, dict):
            known = TOLD_FIELDS if depth == _IN_CHOICE and steps[0] == "choices" else here.keys()
            for key in [key for key, value in here.items() if key not in known or is_tokens(value)]:
                del here[key]
            if (held := here.get(_SPELLED_AGAIN)) is not None:
                here[_SPELLED_AGAIN] = [] if isinstance(held, list) else None
        here = _at(here, _index(here, step))


def _copied(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _copied(child) for key, child in value.items()}
    return [_copied(child) for child in value] if isinstance(value, list) else value


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
