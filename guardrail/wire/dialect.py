"""What the guard needs to know of one inference protocol; `guardrail.wire.dialects` lists all that are guarded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from guardrail.types import Decision, Part
from guardrail.wire.chat import FilterResults
from guardrail.wire.refusal import Reply


class Request(Protocol):
    """A parsed request. `stream`: it asks for an event stream."""

    @property
    def model(self) -> str:
        """What routes are matched with."""
        ...

    @property
    def stream(self) -> bool:
        """Whether it asks for an event stream."""
        ...

    @property
    def document(self) -> Mapping[str, object]:
        """The JSON as it came."""
        ...

    @property
    def parts(self) -> tuple[Part, ...]:
        """Everything in it that an upstream could read. Raises WireError (400) for what cannot be taken apart."""
        ...


class Answer(Protocol):
    """A parsed answer."""

    @property
    def document(self) -> Mapping[str, object]:
        """The JSON as it came."""
        ...

    @property
    def parts(self) -> tuple[Part, ...]:
        """Everything in it that a client could read, each with its choice's index."""
        ...

    @property
    def finish_reasons(self) -> Mapping[int, str | None]:
        """Finish reason by choice index; an answer that is one message has the choice 0."""
        ...

    @property
    def usage(self) -> Mapping[str, object] | None:
        """Token counts as the upstream reported them."""
        ...


class Collector(Protocol):
    """An answer that is being collected, whole or streamed, until it is judged."""

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

    @property
    def head(self) -> Mapping[str, object]:
        """What the answer says of itself, as far as it has: `id` and `model` among it."""
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


Asked = TypeVar("Asked", bound=Request)
Told = TypeVar("Told", bound=Answer)


def unshaped(reply: Reply) -> Reply:
    """OpenAI's shape of an error, which is the one that they are made in."""
    return reply


def error_event(reply: Reply) -> bytes:
    """An error as the last event of an OpenAI stream."""
    return b"data: " + reply.body + b"\n\n"


@dataclass(frozen=True, slots=True)
class Dialect(Generic[Asked, Told]):
    """One protocol. `name` and `operation` are its names in records and spans, `param` is the field that holds the prompt.

    `collector` takes the most bytes it may hold; None where the protocol has no streams. `block_reply` (decision, request, notice,
    Unix time) is a blocked prompt answered as if the model had refused; None where an answer cannot say so, and it stays an error.
    `shape` turns an error of ours from OpenAI's shape into the protocol's, `error_event` makes the event that ends a broken stream.
    """

    name: str
    path: str
    operation: str
    param: str
    parse_request: Callable[[bytes], Asked]
    parse_answer: Callable[[bytes], Told]
    replace_blocked: Callable[[Told, Mapping[int, FilterResults], str | None], bytes]
    collector: Callable[[int], Collector] | None = None
    block_reply: Callable[[Decision, Asked, str, int], Reply] | None = None
    shape: Callable[[Reply], Reply] = unshaped
    error_event: Callable[[Reply], bytes] = error_event


AnyDialect = Dialect[Any, Any]
