"""Serving ASGI apps on sockets from inside a running event loop: for `serve` and for `demo`."""

import asyncio
import contextlib
import gc
import multiprocessing
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn

from guardrail.errors import GuardrailError

_COLLECTED_AT = 10_000
KEEP_ALIVE_S = 75  # clients pool connections; ours must not close first while one of them is being reused
GRACE_S = 20


class Server(uvicorn.Server):
    """uvicorn without its own signal handling, which would end the process before telemetry is flushed."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `until_signalled`."""
        yield


def settings(app: Any, **more: Any) -> uvicorn.Config:
    """How every server of ours is set up: no access log (the audit log says more), no WebSockets, lifespan left to the caller."""
    defaults: dict[str, Any] = {
        "access_log": False,
        "log_config": None,
        "ws": "none",
        "lifespan": "off",
        "server_header": False,
        "timeout_keep_alive": KEEP_ALIVE_S,
        "timeout_graceful_shutdown": GRACE_S,
    }
    return uvicorn.Config(app, **(defaults | more))


def bind(host: str, port: int) -> socket.socket:
    """A bound socket. Raises GuardrailError with the reason when the address cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # The protocol is named because asyncio turns Nagle's algorithm off (40 ms a small answer) only where it can see TCP.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        raise GuardrailError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; choose another with --host or --port"
        ) from error
    listener.set_inheritable(True)
    return listener


def address(listener: socket.socket) -> str:
    """The base URL of a bound socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.asynccontextmanager
async def listening(app: Any, listener: socket.socket) -> AsyncIterator[Server]:
    """Serve `app` on a bound socket for the length of the block; requests are taken when it begins."""
    server = Server(settings(app))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            if task.done():
                raise GuardrailError("the server did not start")
            await asyncio.sleep(0.01)
        yield server
    finally:
        server.should_exit = True
        await task


@contextlib.contextmanager
def long_lived() -> Iterator[None]:
    """For a process that serves from now on: what it has made until here (models, policies, modules) is never searched for garbage again.

    To look through all of that stops every request for some 50 ms, and what requests leave behind made it happen time and again. What is
    younger is searched less often than Python would: records and spans on their way out are many objects, and none of them is garbage.
    """
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECTED_AT, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


async def until_signalled() -> None:
    """Return on SIGINT or SIGTERM; in a process that another one started, also when that one is no more."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    if (parent := multiprocessing.parent_process()) is not None:
        with contextlib.suppress(NotImplementedError):  # Windows
            loop.add_reader(parent.sentinel, stop.set)
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C raises KeyboardInterrupt instead
            loop.add_signal_handler(number, stop.set)
    await stop.wait()
