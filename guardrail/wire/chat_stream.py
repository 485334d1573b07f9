"""A streamed chat answer, held until it is judged: it is collected into the same parts as a whole answer."""

from collections.abc import Mapping

from guardrail.types import Part
from guardrail.wire.chat import FilterResults
from guardrail.wire.sse import SseEvent


class ChatStreamCollector:
    """Holds one streamed answer: `receive` chunks until the upstream ends, `finish`, judge `parts()`, then `release` or `replaced`.

    Raises UpstreamError from `receive`, `feed` and `finish`: `malformed` (garbage, or an error frame of the upstream),
    `too_large`, `disconnect` (ended without `[DONE]` and without every choice's finish_reason). Nothing must be released then;
    the one answer is `refusal.upstream_frame(error)`.
    """

    def __init__(self, *, max_bytes: int = 32 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes

    @property
    def done(self) -> bool:
        """True once `[DONE]` was seen: nothing that comes after it is kept."""
        raise NotImplementedError

    @property
    def usage(self) -> Mapping[str, object] | None:
        """The usage the upstream reported, if it did."""
        raise NotImplementedError

    @property
    def finish_reasons(self) -> Mapping[int, str | None]:
        """Finish reason by choice index."""
        raise NotImplementedError

    def receive(self, chunk: bytes) -> None:
        """Take bytes as they came from the upstream, in any chunking."""
        raise NotImplementedError

    def feed(self, event: SseEvent) -> None:
        """Take one decoded event (`receive` does this itself)."""
        raise NotImplementedError

    def finish(self) -> None:
        """The upstream's stream ended. Raises UpstreamError("disconnect") when the answer is not whole."""
        raise NotImplementedError

    def parts(self) -> tuple[Part, ...]:
        """What is to be judged: equal to the parts of the same answer sent whole."""
        raise NotImplementedError

    def release(self) -> tuple[bytes, ...]:
        """The frames untouched, `[DONE]` last: nothing was blocked."""
        raise NotImplementedError

    def replaced(self, blocked: Mapping[int, FilterResults], notice: str | None, *, include_usage: bool = True) -> tuple[bytes, ...]:
        """The frames with the blocked choices' frames replaced by role, optional notice and `finish_reason: content_filter`."""
        raise NotImplementedError
