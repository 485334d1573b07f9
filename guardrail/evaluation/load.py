"""A closed-loop HTTP/1.1 load generator that costs little itself: raw connections, each sending its next request when it was answered."""

import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import httptools

PATIENCE_S = 30.0  # how long requests that are in flight when time is up may still take; then they are failures


@dataclass(frozen=True, slots=True)
class Burst:
    """What one burst of load saw. `latencies` (seconds) of the answered requests; `failures`: not 200, broken off, or never answered."""

    latencies: tuple[float, ...]
    failures: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Answered requests a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0


class Requests:
    """Chat completion requests as bytes, endlessly, no two alike: equal texts would be judged once for many callers."""

    def __init__(self, *, host: str, model: str = "embedded-echo", stream: bool = False) -> None:
        self._host = host
        self._model = model
        self._stream = stream
        self._numbers: Iterator[int] = itertools.count(1)

    def next(self) -> bytes:
        """The next request, about 30 tokens of prompt."""
        prompt = f"Order {next(self._numbers):08d} has not arrived yet. Could you look up where the parcel is and when I can expect it?"
        body = json.dumps({"model": self._model, "stream": self._stream, "messages": [{"role": "user", "content": prompt}]}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/json\r\n"
        return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


async def burst(address: tuple[str, int], requests: Requests, *, connections: int, seconds: float) -> Burst:
    """Keep `connections` requests in flight for `seconds`. Raises OSError when no connection can be made at all."""
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    callers = [_Caller(requests, began + seconds, loop.create_future()) for _ in range(connections)]
    transports = [(await loop.create_connection(lambda caller=caller: caller, *address))[0] for caller in callers]  # type: ignore[misc]
    await asyncio.wait([caller.done for caller in callers], timeout=seconds + PATIENCE_S)
    took = time.perf_counter() - began
    for transport in transports:
        transport.abort()
    latencies = tuple(latency for caller in callers for latency in caller.latencies)
    return Burst(latencies, sum(caller.failures + (not caller.done.done()) for caller in callers), took)


class _Caller(asyncio.Protocol):
    """One connection. `done` is set when time is up and nothing is in flight, or when the connection is lost."""

    def __init__(self, requests: Requests, until: float, done: "asyncio.Future[None]") -> None:
        self.latencies: list[float] = []
        self.failures = 0
        self.done = done
        self._requests = requests
        self._until = until
        self._sent = 0.0
        self._transport: asyncio.WriteTransport | None = None
        self._parser: Any = httptools.HttpResponseParser(cast("Any", self))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.WriteTransport", transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        """Read on; what is no HTTP ends the connection."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.connection_lost(None)

    def connection_lost(self, _: Exception | None) -> None:
        """A connection that ends with a request in flight has failed it."""
        if not self.done.done():
            self.failures += 1
            self.done.set_result(None)

    def on_message_complete(self) -> None:
        """Called by the parser at the end of each answer."""
        if self._parser.get_status_code() == 200:
            self.latencies.append(time.perf_counter() - self._sent)
        else:
            self.failures += 1
        self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        if self._sent >= self._until:
            if not self.done.done():
                self.done.set_result(None)
        elif self._transport is not None:
            self._transport.write(self._requests.next())
