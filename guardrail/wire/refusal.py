"""What a client gets when it does not get the model's answer. No body here ever echoes a judged text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from guardrail.errors import UpstreamError, WireError
from guardrail.types import Decision
from guardrail.wire.chat import ChatRequest, FilterResults

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole HTTP answer: status, headers (lower case, content-type among them, no content-length) and body."""

    status: int
    headers: Headers
    body: bytes


def input_block(decision: Decision, *, name_policies: bool = False) -> Reply:
    """400 `content_filter` for a blocked prompt, streamed or not. `name_policies`: the message names the policies too."""
    raise NotImplementedError


def input_block_reply(decision: Decision, request: ChatRequest, notice: str, *, created: int) -> Reply:
    """`on_block: reply`: 200, `finish_reason: content_filter` and `notice`; an event stream if the request asked for one.

    `created` is a Unix time in seconds.
    """
    raise NotImplementedError


def blocked_choices(decision: Decision) -> Mapping[int, FilterResults]:
    """The choices of a judged answer that are to be replaced, each with its `content_filter_results`."""
    raise NotImplementedError


def decision_headers(decisions: Sequence[Decision], *, overhead_s: float) -> Headers:
    """`x-guardrail-decision` (the strongest of the decisions), `-decision-id`, `-policy-version`, `-overhead-ms`."""
    raise NotImplementedError


def unavailable(decision: Decision | None = None) -> Reply:
    """503 `guardrail_unavailable`, not to be retried: the guard could not judge and the route fails closed."""
    raise NotImplementedError


def failure(status: int, code: str, message: str, *, param: str | None = None) -> Reply:
    """An OpenAI-shaped error of our own: 400, 401, 403, 404, 405, 413, 415, 429, 500, 502, 503 or 504."""
    raise NotImplementedError


def wire_error(error: WireError) -> Reply:
    """The answer a WireError asks for."""
    raise NotImplementedError


def upstream_failure(error: UpstreamError) -> Reply:
    """502, or 504 for a timeout, when nothing was sent yet."""
    raise NotImplementedError


def upstream_frame(error: UpstreamError) -> bytes:
    """The SSE error frame that ends a stream whose upstream broke; nothing follows it."""
    raise NotImplementedError


def unavailable_frame() -> bytes:
    """The SSE error frame that ends a stream that could not be judged; nothing follows it."""
    raise NotImplementedError
