"""What the classifier asks of the engine and what it is told: plain values that a socket can carry. No tensors, no text."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from guardrail.errors import ClassifierError


class Priority(IntEnum):
    """Who goes first when not all fit; within one class the earlier deadline does."""

    INPUT = 0
    STREAM = 1
    OUTPUT = 2
    BACKGROUND = 3


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """A policy's prompt head: `key` names its token ids (a digest over them), `base` an older version whose head it may share.

    `tenant`: whose floor it counts for; `*` for that of all, empty for those of the tenants that come to use it.
    """

    key: str
    tokens: NDArray[np.int32]
    tenant: str = "*"
    base: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """One question: `tokens` (content and answer header, int32) behind a prefix; read at the last.

    `deadline` is a `time.monotonic()` instant (one clock for all processes of a machine). With `stream` (a name the caller chose), the
    first `keep` tokens stay resident for the next question of that stream under that prefix, and only what differs from the
    last one is run; `probe` asks for the stream probe's score of each newly kept token.
    """

    prefix: str
    tokens: NDArray[np.int32]
    deadline: float
    priority: Priority = Priority.INPUT
    tenant: str = "*"
    stream: str | None = None
    keep: int = 0
    probe: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """One row's answer: final logits of "0" and "1", logsumexp over the vocabulary, the bucket, probe scores of its kept tokens."""

    zero: float
    one: float
    log_total: float
    bucket: int
    probe: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Told:
    """An answer: what was read, and how many tokens were run for it (fewer than asked where a stream's stayed resident)."""

    read: Read
    tokens_run: int


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine serves, for ids, limits and replay. Digests are `sha256:…` over weights; empty where there is none.

    `prompt` is the digest of the tokenizer and template that its model was loaded with: whoever asks makes prompts of the same.
    """

    runner: str
    model: str
    adapter: str
    dtype: str
    longest: int
    quantisation: str = "none"
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """`alive`: the loop's heart beats. Ages in seconds, sizes in tokens, rows and bytes; counters since the start."""

    alive: bool
    heartbeat_age_s: float
    queued_tokens: int
    tokens_per_s: float
    batches: int
    used_pages: int
    free_pages: int
    prefixes_resident: int
    prefixes_offloaded: int
    evictions: int
    streams: int
    detail: str = ""


class EngineClient(Protocol):
    """An engine as the classifier sees it, in this process or behind a socket. All methods are for one event loop."""

    @property
    def info(self) -> EngineInfo:
        """Known after `open`."""
        ...

    async def prepare(self, prefixes: list[Prefix], *, deadline: float) -> None:
        """Make prefixes resident beside live traffic. Raises ClassifierError (too_long, overloaded, timeout, crash)."""
        ...

    async def ask(self, asks: list[Ask]) -> list[Told | ClassifierError]:
        """One entry an ask, in order. Cancelling the caller drops what has not been computed."""
        ...

    def forget(self, stream: str) -> None:
        """Give a stream's pages back, under every prefix. Idempotent, does not wait."""
        ...

    def health(self) -> Health:
        """A snapshot; never blocks."""
        ...

    async def aclose(self) -> None:
        """Fail every waiter, free everything. Idempotent."""
        ...
