"""What the guard needs to know of one inference protocol; `guardrail.wire.dialects` lists all that are guarded."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from guardrail.types import Decision, Part
from guardrail.wire.answer import Answer, FilterResults, answer_object
from guardrail.wire.fields import read_object
from guardrail.wire.moderated import Moderation
from guardrail.wire.refusal import Reply
from guardrail.wire.release import Release
from guardrail.wire.request import Request


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

    def begun(self) -> tuple[Part, ...]:
        """What is to be judged of an answer that broke off; `UNREADABLE` stands for what of it cannot be read."""
        ...

    def release(self) -> tuple[bytes, ...]:
        """The answer untouched."""
        ...

    def replaced(self, blocked: Mapping[int, FilterResults], notice: str | None) -> tuple[bytes, ...]:
        """The answer with the blocked choices replaced."""
        ...


def unshaped(reply: Reply) -> Reply:
    """OpenAI's shape of an error, which is the one that they are made in."""
    return reply


def error_event(reply: Reply) -> bytes:
    """An error as the last event of an OpenAI stream."""
    return b"data: " + reply.body + b"\n\n"


@dataclass(frozen=True, slots=True)
class Moderated:
    """How a protocol asks for moderation, and is told its results: `read` of the request, `told` of the decisions, `put` into the answer
    (`put(pieces, results, streamed=...)`)."""

    read: Callable[[Mapping[str, object]], Moderation | None]
    told: Callable[[Iterable[Decision]], dict[str, object]]
    put: Callable[..., tuple[bytes, ...]]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One protocol. `name` and `operation` are its names in records and spans, `param` is the field that holds the prompt.

    `collector` takes the most bytes it may hold; None where the protocol has no streams. `block_reply` (decision, request, notice,
    Unix time) is a blocked prompt answered as if the model had refused; None where an answer cannot say so, and it stays an error.
    `release` takes the same of a stream that is let out while it is judged; None where it is always held.
    `moderation` is how OpenAI's parameter of that name is answered, None where there is no such parameter.
    `shape` turns an error of ours from OpenAI's shape into the protocol's, `error_event` makes the event that ends a broken stream.
    """

    name: str
    path: str
    operation: str
    param: str
    read_request: Callable[[Mapping[str, object]], Request]
    read_answer: Callable[[Mapping[str, object]], Answer]
    replace_blocked: Callable[[Answer, Mapping[int, FilterResults], str | None], bytes]
    collector: Callable[[int], Collector] | None = None
    release: Callable[[int], Release] | None = None
    block_reply: Callable[[Decision, Request, str, int], Reply] | None = None
    moderation: Moderated | None = None
    shape: Callable[[Reply], Reply] = unshaped
    error_event: Callable[[Reply], bytes] = error_event

    def parse_request(self, body: bytes) -> Request:
        """The request in `body`. Raises WireError (400) for anything that proxy and upstream could read differently."""
        return self.read_request(read_object(body))

    def parse_answer(self, body: bytes) -> Answer:
        """The whole answer in `body`. Raises UpstreamError: `malformed` for what is none, `too_large` for too many parts."""
        return self.read_answer(answer_object(body))
