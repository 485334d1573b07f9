"""Answers that are collected for judging, whole or streamed, behind one interface, so that the gate knows one kind."""

import contextlib
from collections.abc import Mapping

from guardrail.asgi.messages import RawHeaders, header
from guardrail.errors import UpstreamError
from guardrail.types import Part
from guardrail.wire.answer import UNREADABLE, Answer, FilterResults
from guardrail.wire.dialect import Collector, Dialect

EVENT_STREAM = b"text/event-stream"


class WholeAnswer:
    """A JSON answer of at most `max_bytes`."""

    def __init__(self, dialect: Dialect, *, max_bytes: int) -> None:
        self._dialect = dialect
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._size = 0
        self._answer: Answer | None = None

    @property
    def done(self) -> bool:
        """Never before the upstream ends."""
        return False

    @property
    def usage(self) -> Mapping[str, object] | None:
        """See `Collector`."""
        return self.answer.usage

    @property
    def finish_reasons(self) -> Mapping[int, str | None]:
        """See `Collector`."""
        return self.answer.finish_reasons

    @property
    def head(self) -> Mapping[str, object]:
        """See `Collector`."""
        return self.answer.document

    def receive(self, chunk: bytes) -> None:
        """See `Collector`."""
        self._size += len(chunk)
        if self._size > self._max_bytes:
            raise UpstreamError("too_large", f"the upstream's answer is larger than {self._max_bytes} bytes")
        self._pieces.append(chunk)

    def finish(self) -> None:
        """See `Collector`."""
        self._pieces = [b"".join(self._pieces)]
        self._answer = self._dialect.parse_answer(self._pieces[0])

    def parts(self) -> tuple[Part, ...]:
        """See `Collector`."""
        return self.answer.parts

    def begun(self) -> tuple[Part, ...]:
        """See `Collector`."""
        if self._size:
            try:
                self.finish()
                return self.parts()
            except UpstreamError:
                return (UNREADABLE,)
        return ()

    def release(self) -> tuple[bytes, ...]:
        """See `Collector`."""
        return tuple(self._pieces)

    def replaced(self, blocked: Mapping[int, FilterResults], notice: str | None) -> tuple[bytes, ...]:
        """See `Collector`."""
        return (self._dialect.replace_blocked(self.answer, blocked, notice),)

    @property
    def answer(self) -> Answer:
        """The answer, once it is finished."""
        if self._answer is None:
            raise RuntimeError("the answer is not finished")
        return self._answer


class Bystander:
    """Reads along with an answer that is only watched, every check of it being in shadow mode, and never holds anything up."""

    def __init__(self, headers: RawHeaders, dialect: Dialect, *, max_bytes: int) -> None:
        self._held: Collector | None = None
        self._finished = False
        with contextlib.suppress(UpstreamError):
            self._held = holder(headers, dialect, max_bytes=max_bytes)

    def receive(self, chunk: bytes) -> None:
        """Take bytes."""
        if self._held is not None:
            try:
                self._held.receive(chunk)
            except UpstreamError:
                self._held = None

    def head(self) -> Mapping[str, object]:
        """The answer's head, once all of it came; empty where it could not be read."""
        held = self._whole()
        return {} if held is None else held.head

    def parts(self, *, whole: bool) -> tuple[Part, ...]:
        """What is to be judged once the answer is out, or broke off; one unreadable part stands for what could not be read."""
        if self._held is not None and not whole:
            return self._held.begun()
        held = self._whole()
        with contextlib.suppress(UpstreamError):
            if held is not None:
                return held.parts()
        return (UNREADABLE,)

    def _whole(self) -> Collector | None:
        if self._held is not None and not self._finished:
            self._finished = True
            try:
                self._held.finish()
            except UpstreamError:
                self._held = None
        return self._held


def holder(headers: RawHeaders, dialect: Dialect, *, max_bytes: int) -> Collector:
    """What collects an answer with these (lower-case) headers. Raises UpstreamError for one that cannot be judged."""
    if (header(headers, b"content-encoding") or b"identity").lower() != b"identity":
        raise UpstreamError("malformed", "the upstream compressed its answer although it was asked not to, so it cannot be judged")
    media = (header(headers, b"content-type") or b"").partition(b";")[0].strip().lower()
    if media == EVENT_STREAM and dialect.collector is not None:
        return dialect.collector(max_bytes)
    if media == b"application/json":
        return WholeAnswer(dialect, max_bytes=max_bytes)
    raise UpstreamError("malformed", "the upstream's answer is neither JSON nor an event stream of the protocol, so it cannot be judged")
