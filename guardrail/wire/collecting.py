"""What every collector of named events does the same: bounded bytes, whole events, and the frames as they came."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from guardrail.errors import UpstreamError
from guardrail.types import Part
from guardrail.wire.answer import UNREADABLE, Answer
from guardrail.wire.document import UnreadableError, parse_object
from guardrail.wire.sse import SseDecoder, SseEvent


class StreamCollector(ABC):
    """Takes a stream's bytes, up to a number, and gives its whole events on until the last one of them."""

    def __init__(self, *, max_bytes: int) -> None:
        self._decoder = SseDecoder(max_event_bytes=max_bytes, max_bytes=max_bytes)
        self._done = False

    @property
    def done(self) -> bool:
        """True once the stream's last event was seen: nothing that comes after it is kept."""
        return self._done

    def receive(self, chunk: bytes) -> None:
        """Take bytes as they came from the upstream, in any chunking. Raises UpstreamError: `malformed`, `too_large`."""
        for event in self._decoder.feed(chunk):
            self.feed(event)

    def finish(self) -> None:
        """The upstream's stream ended. Raises UpstreamError("disconnect") when the answer is not whole."""
        try:
            for event in self._decoder.close():
                self.feed(event)
        except UpstreamError:
            raise UpstreamError("disconnect", "the upstream's stream broke off within an event") from None
        self._ended()

    def begun(self) -> tuple[Part, ...]:
        """The parts of what came of a stream that does not go on; `UNREADABLE` stands for what of it cannot be read."""
        unread: tuple[Part, ...] = ()
        try:
            for event in self._decoder.close():
                self.feed(event)
        except UpstreamError:
            unread = (UNREADABLE,)
        try:
            return (*self.parts(), *unread)
        except UpstreamError:
            return (UNREADABLE,)

    @abstractmethod
    def parts(self) -> tuple[Part, ...]:
        """What is to be judged: equal to the parts of the same answer sent whole."""

    @abstractmethod
    def feed(self, event: SseEvent) -> None:
        """Take one decoded event (`receive` does this itself)."""

    @abstractmethod
    def _ended(self) -> None:
        """Raises UpstreamError("disconnect") when what came is not a whole answer, and any that reading it would raise: nothing may fail
        once it is judged."""


class EventCollector(StreamCollector):
    """Holds a stream of named events until it is judged. Raises UpstreamError: `malformed`, `too_large`, `disconnect`."""

    def __init__(self, *, max_bytes: int) -> None:
        super().__init__(max_bytes=max_bytes)
        self._frames: list[bytes] = []

    def release(self) -> tuple[bytes, ...]:
        """The frames untouched: nothing was blocked."""
        return tuple(self._frames)

    @abstractmethod
    def answer(self) -> Answer:
        """The same answer as one whole document. Raises UpstreamError where it is none."""

    @abstractmethod
    def _take(self, kind: str, document: Mapping[str, object], beside: tuple[str, ...]) -> bool:
        """One event of this type; `beside` is text outside its data. True: it was the last."""

    def feed(self, event: SseEvent) -> None:
        """Take one decoded event (`receive` does this itself)."""
        if self._done:
            return
        self._frames.append(event.raw)
        if event.data is None or event.data.strip() == "[DONE]":  # some servers end other protocols' streams like a chat's
            self._take("", {}, event.beside)
            return
        document = parse_event(event.data)
        kind = document.get("type")
        if not isinstance(kind, str) or event.name not in (None, kind):
            raise UpstreamError("malformed", "an event of the upstream's stream has no type, or another one than its name")
        self._done = self._take(kind, document, event.beside)

    def _ended(self) -> None:
        if not self._done:
            raise UpstreamError("disconnect", "the upstream's stream ended before its last event")
        self.answer()


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


def parse_event(data: str) -> dict[str, object]:
    """The JSON object in an event's data. Raises UpstreamError("malformed") for anything else."""
    try:
        return parse_object(data.encode("utf-8"))
    except UnreadableError as error:
        raise UpstreamError("malformed", f"an event of the upstream's stream cannot be read: {error}") from None
