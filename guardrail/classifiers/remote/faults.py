"""What a server's refusal means: the error it becomes, and whether the same question may be put again."""

import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from guardrail.errors import ClassifierError

# Spellings of "your prompt does not fit" in vLLM, SGLang and llama.cpp, which all answer it with a 400.
_TOO_LONG = re.compile(rb"context.length|context.size|model.length|longer.than|too.(?:long|large)", re.IGNORECASE)
_MEANINGS: Mapping[int, tuple[str, str]] = {
    400: ("crash", "refused the question; compare this classifier's settings with what the server takes"),
    401: ("crash", "refused the API key; check the variable named in api_key_env"),
    402: ("crash", "wants to be paid first; the account behind the API key has no credit"),
    403: ("crash", "does not allow this API key to ask; check the variable named in api_key_env, and the account's rights"),
    404: ("crash", "knows no such address, model or labeler; check base_url, model and labelers"),
    405: ("crash", "does not take questions at this address; check base_url"),
    408: ("timeout", "gave up waiting"),
    413: ("too_long", "says that the question is too large"),
    422: ("crash", "refused the question as invalid; compare this classifier's settings with what the server takes"),
    429: ("overloaded", "is asked too often"),
    503: ("overloaded", "cannot serve now"),
    504: ("timeout", "was not answered in time itself"),
    529: ("overloaded", "is overloaded"),
}


class TryError(ClassifierError):
    """A try that gave no answer. `again`: another may; `after`: not before so many seconds, where the server said so."""

    def __init__(self, code: str, message: str, *, again: bool = False, after: float | None = None) -> None:
        self.again = again
        self.after = after
        super().__init__(code, message)


def refusal(place: str, status: int, headers: Mapping[str, str], excerpt: bytes) -> TryError:
    """The failure that an error status stands for.

    `excerpt`, the beginning of the body, is searched for a known sign and never quoted: it may repeat what was asked. A status of 429
    or 5xx may be tried again, unless `x-should-retry` says otherwise; that header decides for every status, as in OpenAI's clients.
    """
    if 300 <= status < 400:
        return TryError("crash", f"{place} answered with a redirect ({status}), which is not followed; put the final address into base_url")
    if status < 300:
        return TryError("malformed", f"{place} answered with status {status}, which comes with no score")
    code, meaning = _MEANINGS.get(status, ("crash", "failed" if status >= 500 else "refused the question"))
    if status == 400 and _TOO_LONG.search(excerpt):
        code, meaning = "too_long", "says that policy and text do not fit its model together"
    said = headers.get("x-should-retry", "").strip().lower()
    again = said == "true" or (said != "false" and (status == 429 or status >= 500))
    return TryError(code, f"{place} {meaning} (status {status})", again=again, after=pause_asked(headers))


def pause_asked(headers: Mapping[str, str]) -> float | None:
    """Seconds that `retry-after-ms` or `retry-after` (a number or a date) asks to wait; None where neither says so readably."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1_000
    said = headers.get("retry-after")
    seconds = _number(said)
    if seconds is not None or said is None:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _number(said: str | None) -> float | None:
    try:
        number = float(said) if said is not None else None
    except ValueError:
        return None
    return number if number is not None and math.isfinite(number) and number >= 0 else None
