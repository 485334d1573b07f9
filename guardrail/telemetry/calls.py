"""What is known about one call to an upstream when it is over: numbers and names, no content."""

from collections.abc import Mapping
from dataclasses import dataclass

_DETAIL_KEYS = ("prompt_tokens_details", "input_tokens_details", "completion_tokens_details", "output_tokens_details")


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts as the upstream reported them; None: not reported."""

    input: int | None = None
    output: int | None = None
    cache_read: int | None = None
    cache_creation: int | None = None
    reasoning: int | None = None


@dataclass(frozen=True, slots=True)
class UpstreamCall:
    """One finished call. `server` is host and port (None: in this process), durations are seconds, `error` a code or None.

    `first_chunk_s` and `chunks_s` (from each chunk to the next one) are of streams alone.
    """

    operation: str
    model: str
    provider: str
    server: tuple[str, int | None] | None
    duration_s: float
    first_chunk_s: float | None = None
    chunks_s: tuple[float, ...] = ()
    response_model: str | None = None
    error: str | None = None
    usage: Usage = Usage()


def read_usage(usage: Mapping[str, object] | None) -> Usage:
    """Read a `usage` object in the OpenAI (chat, responses) or Anthropic shape; what is missing or not a count is None."""
    if usage is None:
        return Usage()
    flat: dict[str, object] = dict(usage)
    for key in _DETAIL_KEYS:
        details = usage.get(key)
        if details is not None and isinstance(details, Mapping):
            flat.update(details)
    return Usage(
        input=_count(flat, "prompt_tokens", "input_tokens"),
        output=_count(flat, "completion_tokens", "output_tokens"),
        cache_read=_count(flat, "cached_tokens", "cache_read_input_tokens"),
        cache_creation=_count(flat, "cache_creation_input_tokens"),
        reasoning=_count(flat, "reasoning_tokens"),
    )


def _count(values: Mapping[str, object], *keys: str) -> int | None:
    for key in keys:
        value = values.get(key)
        if value is not None and isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53:
            return value
    return None
