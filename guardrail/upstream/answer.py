"""What every upstream offers, however it is reached."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to open a connection, and to wait for the next bytes of an answer (its head included)."""

    connect_s: float = 5.0
    read_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Pooled connections at one time, bytes of one answer, and the share of requests that may be tried again."""

    connections: int = 256
    answer_bytes: int = 32 * 1024 * 1024
    retry_budget: float = 0.1


class UpstreamAnswer(Protocol):
    """An answer whose head has arrived. Headers are lower-case pairs without hop-by-hop ones and content-length."""

    @property
    def status(self) -> int:
        """HTTP status."""
        ...

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """End-to-end headers in order."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, once. Raises UpstreamError: timeout, disconnect, too_large."""
        ...

    async def read(self) -> bytes:
        """The whole body. Raises UpstreamError: timeout, disconnect, too_large."""
        ...


class Upstream(Protocol):
    """A guarded model's API."""

    def send(self, method: str, path: str, headers: Headers, body: bytes) -> AbstractAsyncContextManager[UpstreamAnswer]:
        """Send one request; entering raises UpstreamError (connect, timeout, disconnect), leaving or cancelling closes it.

        `path` is the path the client called (`/v1/chat/completions`), with its query if it has one. An error status of the
        upstream is an answer, not an exception.
        """
        ...

    async def aclose(self) -> None:
        """Close the pool. Idempotent."""
        ...


@runtime_checkable
class Loading(Protocol):
    """An upstream that takes long to get ready, and should do so before its first request."""

    async def load(self) -> None:
        """Get ready. Idempotent."""
        ...
