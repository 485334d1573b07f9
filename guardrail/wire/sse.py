"""Server-sent events, sans I/O: bytes in any chunking become events that keep their raw bytes."""

import re
from dataclasses import dataclass

from guardrail.errors import UpstreamError
from guardrail.wire.document import dump

DONE = b"data: [DONE]\n\n"

_END_OF_LINE = re.compile(rb"\r\n|\n|\r")
_IDENTIFIER = re.compile(r"[A-Za-z0-9._-]{0,64}")
_FIELDS = frozenset({"", "event", "id", "retry"})  # the nameless one is a comment
_KEEP_ALIVES = frozenset({"", "ping", "keep-alive", "keepalive", "heartbeat", "openrouter processing"})
_LEAST = 128  # what an event costs at least, since what is kept of it has a size of its own however little it says
_VALUE = 16  # and what each value in it costs
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One event. `raw` is exactly what came, its blank line included; `data` is None where there was no data line (a comment).

    `beside` is the text in its other lines, which is judged too: comments other than the usual keep-alives, event names, ids and retry
    times that are not a short identifier, and whole lines of unknown fields.
    """

    raw: bytes
    data: str | None
    name: str | None = None
    beside: tuple[str, ...] = ()


class SseDecoder:
    """Cuts a byte stream into events. Any chunking gives the same events.

    Lines end with LF, CR or CRLF, `data` lines of one event are joined by LF, comments and unknown fields stay in `raw` and `beside`.
    `max_event_bytes` bounds one event. `max_bytes` bounds the stream, in memory and not only in bytes: many tiny events or values count
    as more than they are long.
    """

    def __init__(self, *, max_event_bytes: int = 8 * 1024 * 1024, max_bytes: int | None = None) -> None:
        self._max = max_event_bytes if max_bytes is None else min(max_event_bytes, max_bytes)
        self._most = max_bytes
        self._received = 0
        self._cost = 0
        self._buffer = bytearray()
        self._lines: list[bytes] = []
        self._line_start = 0
        self._searched = 0
        self._at_start = True

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """The events that `chunk` completes. Raises UpstreamError: `too_large` for an endless event, `malformed` for bad UTF-8."""
        self._received += len(chunk)
        if self._most is not None and self._received > self._most:
            raise UpstreamError("too_large", f"the upstream's stream is longer than {self._most} bytes")
        self._buffer += chunk
        return self._drain(final=False)

    def close(self) -> list[SseEvent]:
        """The stream ended: the event that was left without its blank line, which is added to its `raw`, or nothing."""
        events = self._drain(final=True)
        if self._buffer:
            self._buffer += b"\n\n"
            events += self._drain(final=True)
        return events

    def _drain(self, *, final: bool) -> list[SseEvent]:
        events: list[SseEvent] = []
        while (end := _END_OF_LINE.search(self._buffer, self._searched)) is not None:
            if end.end() == len(self._buffer) and end.group() == b"\r" and not final:
                break  # its LF may be in the next chunk
            line = bytes(self._buffer[self._line_start : end.start()])
            self._line_start = self._searched = end.end()
            if line:
                self._lines.append(line)
            else:
                raw = bytes(self._buffer[: end.end()])
                self._count(raw)
                events.append(self._event(raw))
                del self._buffer[: end.end()]
                self._lines, self._line_start, self._searched = [], 0, 0
        self._searched = end.start() if end is not None else len(self._buffer)
        if len(self._buffer) > self._max:
            raise UpstreamError("too_large", f"one event of the upstream's stream is longer than {self._max} bytes")
        return events

    def _count(self, raw: bytes) -> None:
        self._cost += max(len(raw), _LEAST, _VALUE * (raw.count(b",") + len(self._lines)))
        if self._most is not None and self._cost > self._most:
            raise UpstreamError("too_large", f"the upstream's stream has more events and values than {self._most} bytes may hold")

    def _event(self, raw: bytes) -> SseEvent:
        data: list[str] = []
        beside: list[str] = []
        name: str | None = None
        for raw_line in self._lines:
            try:
                line = (raw_line.removeprefix(_BYTE_ORDER_MARK) if self._at_start else raw_line).decode("utf-8")
            except UnicodeDecodeError:
                raise UpstreamError("malformed", "the upstream's stream is not valid UTF-8") from None
            self._at_start = False
            field, _, value = line.partition(":")
            text = value.removeprefix(" ")
            if field == "data":
                data.append(text)
                continue
            if field == "event":
                name = text
            if not _says_nothing(field, text):
                beside.append(text if field in _FIELDS else line)
        return SseEvent(raw, "\n".join(data) if data else None, name, tuple(beside))


def _says_nothing(field: str, text: str) -> bool:
    if field:
        return field in _FIELDS and _IDENTIFIER.fullmatch(text) is not None
    return text.strip().lower() in _KEEP_ALIVES


def frame(document: object) -> bytes:
    """A JSON document as one `data:` event."""
    return b"data: " + dump(document) + b"\n\n"
