"""Server-sent events, sans I/O: bytes in any chunking become events that keep their raw bytes."""

from dataclasses import dataclass

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One event. `raw` is exactly what came, its blank line included; `data` is None where there was no data line (a comment)."""

    raw: bytes
    data: str | None
    name: str | None = None


class SseDecoder:
    """Cuts a byte stream into events. Any chunking gives the same events."""

    def __init__(self, *, max_event_bytes: int = 8 * 1024 * 1024) -> None:
        self._max = max_event_bytes

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """The events that `chunk` completes. Raises UpstreamError: `too_large` for an endless event, `malformed` for bad UTF-8."""
        raise NotImplementedError

    def close(self) -> bytes:
        """The stream ended: what was left of an unfinished event (to be thrown away, as the standard says)."""
        raise NotImplementedError


def frame(document: object) -> bytes:
    """A JSON document as one `data:` event."""
    raise NotImplementedError
