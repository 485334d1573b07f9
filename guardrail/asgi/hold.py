"""A whole (not streamed) answer held until it is judged, with the interface of the streamed one, so that the gate knows one kind."""

from collections.abc import Mapping
from typing import Protocol

from guardrail.errors import UpstreamError
from guardrail.types import Part
from guardrail.wire.chat import ChatAnswer, FilterResults, parse_answer, replace_blocked


class Held(Protocol):
    """An answer that is being collected: `wire.chat_stream.ChatStreamCollector` or `WholeAnswer`."""

    @property
    def done(self) -> bool:
        """True when nothing that could still come belongs to the answer."""
        ...

    @property
    def usage(self) -> Mapping[str, object] | None:
        """Token counts as the upstream reported them."""
        ...

    @property
    def finish_reasons(self) -> Mapping[int, str | None]:
        """Finish reason by choice index."""
        ...

    def receive(self, chunk: bytes) -> None:
        """Take bytes. Raises UpstreamError for garbage and for too much."""
        ...

    def finish(self) -> None:
        """The upstream ended. Raises UpstreamError when what came is not a whole answer."""
        ...

    def parts(self) -> tuple[Part, ...]:
        """What is to be judged."""
        ...

    def release(self) -> tuple[bytes, ...]:
        """The answer untouched."""
        ...

    def replaced(self, blocked: Mapping[int, FilterResults], notice: str | None) -> tuple[bytes, ...]:
        """The answer with the blocked choices replaced."""
        ...


class WholeAnswer:
    """A JSON answer of at most `max_bytes`."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._size = 0
        self._answer: ChatAnswer | None = None

    @property
    def done(self) -> bool:
        """Never before the upstream ends."""
        return False

    @property
    def usage(self) -> Mapping[str, object] | None:
        """See `Held`."""
        return self._parsed.usage

    @property
    def finish_reasons(self) -> Mapping[int, str | None]:
        """See `Held`."""
        return self._parsed.finish_reasons

    def receive(self, chunk: bytes) -> None:
        """See `Held`."""
        self._size += len(chunk)
        if self._size > self._max_bytes:
            raise UpstreamError("too_large", f"the upstream's answer is larger than {self._max_bytes} bytes")
        self._pieces.append(chunk)

    def finish(self) -> None:
        """See `Held`."""
        self._pieces = [b"".join(self._pieces)]
        self._answer = parse_answer(self._pieces[0])

    def parts(self) -> tuple[Part, ...]:
        """See `Held`."""
        return self._parsed.parts

    def release(self) -> tuple[bytes, ...]:
        """See `Held`."""
        return tuple(self._pieces)

    def replaced(self, blocked: Mapping[int, FilterResults], notice: str | None) -> tuple[bytes, ...]:
        """See `Held`."""
        return (replace_blocked(self._parsed, blocked, notice),)

    @property
    def _parsed(self) -> ChatAnswer:
        if self._answer is None:
            raise RuntimeError("the answer is not finished")
        return self._answer
