"""What every collector of named events does the same: bounded bytes, whole events, and the frames as they came."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from guardrail.errors import UpstreamError
from guardrail.wire.document import UnreadableError, parse_object
from guardrail.wire.sse import SseDecoder, SseEvent


class EventCollector(ABC):
    """Holds a stream of named events until it is judged. Raises UpstreamError: `malformed`, `too_large`, `disconnect`."""

    def __init__(self, *, max_bytes: int) -> None:
        self._decoder = SseDecoder(max_event_bytes=max_bytes, max_bytes=max_bytes)
        self._frames: list[bytes] = []
        self._done = False

    @property
    def done(self) -> bool:
        """True once the stream's last event was seen: nothing that comes after it is kept."""
        return self._done

    def receive(self, chunk: bytes) -> None:
        """Take bytes as they came from the upstream, in any chunking."""
        for event in self._decoder.feed(chunk):
            self._feed(event)

    def finish(self) -> None:
        """The upstream's stream ended. Raises UpstreamError("disconnect") when the answer is not whole."""
        try:
            for event in self._decoder.close():
                self._feed(event)
        except UpstreamError:
            raise UpstreamError("disconnect", "the upstream's stream broke off within an event") from None
        if not self._done:
            raise UpstreamError("disconnect", "the upstream's stream ended before its last event")
        self._whole()

    def release(self) -> tuple[bytes, ...]:
        """The frames untouched: nothing was blocked."""
        return tuple(self._frames)

    @abstractmethod
    def _whole(self) -> object:
        """Read what was collected as one answer. Raises UpstreamError where it is none: nothing may fail once it is judged."""

    @abstractmethod
    def _take(self, kind: str, document: Mapping[str, object], beside: tuple[str, ...]) -> bool:
        """One event of this type; `beside` is text outside its data. True: it was the last."""

    def _feed(self, event: SseEvent) -> None:
        if self._done:
            return
        self._frames.append(event.raw)
        if event.data is None or event.data.strip() == "[DONE]":  # some servers end other protocols' streams like a chat's
            self._take("", {}, event.beside)
            return
        document = _parse(event.data)
        kind = document.get("type")
        if not isinstance(kind, str) or event.name not in (None, kind):
            raise UpstreamError("malformed", "an event of the upstream's stream has no type, or another one than its name")
        self._done = self._take(kind, document, event.beside)


def place_of(document: Mapping[str, object], name: str, most: int) -> int:
    """A whole number from 0 to below `most`. Raises UpstreamError("malformed") for anything else."""
    value = document.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < most:
        raise UpstreamError("malformed", f"an event of the upstream's stream has a {name} that is not a number from 0 to {most - 1}")
    return value


def object_of(document: Mapping[str, object], name: str) -> dict[str, object]:
    """An object in an event. Raises UpstreamError("malformed") for anything else."""
    value = document.get(name)
    if not isinstance(value, dict):
        raise UpstreamError("malformed", f"an event of the upstream's stream has no object {name}")
    return value


def _parse(data: str) -> dict[str, object]:
    try:
        return parse_object(data.encode("utf-8"))
    except UnreadableError as error:
        raise UpstreamError("malformed", f"an event of the upstream's stream cannot be read: {error}") from None
