"""JSON read so strictly that two readers cannot disagree about it: the guard must see what the upstream or the client sees."""

import json
import math

MAX_DEPTH = 64
MAX_BRACKETS = 200_000  # opening ones, in texts too: a cheap bound on what parsing may cost


class UnreadableError(ValueError):
    """Why a body cannot be used, in one sentence that never quotes it."""


def parse_object(body: bytes) -> dict[str, object]:
    """The JSON object in `body`.

    Raises UnreadableError for invalid UTF-8 or JSON, another type than an object, a repeated key at any depth (readers differ in which
    one they take), NaN, Infinity or a number too large for a float, nesting deeper than `MAX_DEPTH` and more than `MAX_BRACKETS`.
    """
    if body.count(b"[") + body.count(b"{") > MAX_BRACKETS:
        raise UnreadableError(f"the body holds more than {MAX_BRACKETS} opening brackets")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise UnreadableError("the body is not valid UTF-8") from None
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise UnreadableError(f"the body is nested deeper than {MAX_DEPTH} levels") from None
    except UnreadableError:
        raise
    except ValueError:  # a syntax error, or an integer of thousands of digits
        raise UnreadableError("the body is not valid JSON") from None
    if not isinstance(value, dict):
        raise UnreadableError("the body is not a JSON object")
    _check_depth(value)
    return value


def dump(document: object) -> bytes:
    """A JSON document as bytes; ASCII only, so that a lone surrogate survives and no client splits lines within it."""
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def readable(text: str) -> str:
    """`text` with each lone surrogate replaced by U+FFFD, so that it can be encoded; the length stays."""
    if text.isascii():
        return text
    return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text) if _has_lone(text) else text


def _has_lone(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise UnreadableError("an object in the body repeats a key")
    return found


def _no_constant(_: str) -> object:
    raise UnreadableError("the body holds NaN or Infinity, which is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise UnreadableError("the body holds a number that no float can hold")
    return number


def _check_depth(value: dict[str, object]) -> None:
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent if isinstance(parent, list) else ())
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise UnreadableError(f"the body is nested deeper than {MAX_DEPTH} levels")
