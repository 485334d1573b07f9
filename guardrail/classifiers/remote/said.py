"""Single values of a server's answer: its model's name, made fit for a record, its token count, its numbers."""

import math
import re
from collections.abc import Mapping

_UNFIT = re.compile(r"[^A-Za-z0-9._:/@+-]")
LONGEST = 96


def model_name(body: Mapping[str, object]) -> str:
    """The model and, where the server gives one, its build: `cope-a`, `cope-a+b4501-667d7284`; `unnamed` where it says nothing."""
    model, build = body.get("model"), body.get("system_fingerprint")
    named = _fit(model) if isinstance(model, str) and model else "unnamed"
    return f"{named}+{_fit(build)}" if isinstance(build, str) and build else named


def prompt_tokens(body: Mapping[str, object]) -> int | None:
    """How many prompt tokens the server counted; None where it does not say."""
    match body.get("usage"):
        case {"prompt_tokens": int(count)} if not isinstance(count, bool):
            return count
        case _:
            return None


def number(value: object) -> float | None:
    """A number as a float, infinite where it is too large for one; None for anything else, true and false among it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _fit(name: str) -> str:
    return _UNFIT.sub("_", name[:LONGEST])
