"""One connection: frames in and out of a Unix socket, bounded in what may stay unsent and in how long a frame may take to come."""

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from guardrail.engine.cope.process import dialogue
from guardrail.engine.cope.process.wire import Decoder, Frame, FrameError, encode

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one connection. `unsent` bytes may wait for a peer that does not read; a frame that began must be whole after `frame_s`."""

    unsent: int = 32 << 20
    frame_s: float = 10.0
    hello_s: float = 10.0
    parting_s: float = 1.0


class Link(asyncio.Protocol):
    """Calls `receive` for each frame and, once, `lost` with the reason. `receive` may raise FrameError, which ends the connection."""

    def __init__(self, receive: Callable[[Frame], None], lost: Callable[[str], None], *, bounds: Bounds) -> None:
        self._receive = receive
        self._lost = lost
        self._bounds = bounds
        self._decoder = Decoder()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reason = ""
        self.overflowed = False
        """The peer did not read, and was dropped for it."""

    @property
    def open(self) -> bool:
        """Whether frames still go both ways."""
        return self._transport is not None and not self._reason

    @property
    def unsent(self) -> int:
        """Bytes that the peer has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Nobody but this user's own processes is talked to, whatever the permissions of the socket have become."""
        self._transport = cast("asyncio.Transport", transport)
        if self._reason:  # it was over before it began
            self._transport.abort()
        elif not _own(self._transport.get_extra_info("socket")):
            self.part("the peer is another user's process", tell=False)

    def data_received(self, data: bytes) -> None:
        """Hand on what is complete; bytes that are no frames end the connection."""
        if not self.open:
            return
        try:
            frames = self._decoder.feed(data)
            for frame in frames:
                self._receive(frame)
        except FrameError as error:
            self.part(str(error))
            return
        if self._timer is not None and (frames or not self._decoder.begun):
            self._timer.cancel()
            self._timer = None
        if self._decoder.begun and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._bounds.frame_s, self.part, "a frame was begun and not ended")

    def eof_received(self) -> None:
        """The peer has closed; asyncio closes this side too."""
        try:
            self._decoder.end()
        except FrameError as error:
            self._reason = self._reason or str(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever uses the link, with the first reason there was."""
        if self._timer is not None:
            self._timer.cancel()
        self._reason = self._reason or (f"the connection broke: {exc}" if exc else "the connection was closed")
        self._transport = None
        self._lost(self._reason)

    def send(self, frame: Frame) -> None:
        """Write a frame; nothing happens once the connection is over. A peer that does not read is dropped.

        Raises FrameError for a frame that cannot be sent; the connection is none the worse for it.
        """
        data = encode(frame)
        if self._transport is None or self._reason:
            return
        self._transport.write(data)
        if self.unsent > self._bounds.unsent:
            self.overflowed = True
            self._reason = f"the peer left {self.unsent} bytes unread"
            self._transport.abort()

    def part(self, reason: str, *, tell: bool = True) -> None:
        """End the connection; `tell` says the reason to the peer first, which gets a moment to read it."""
        if self._reason:
            return
        self._reason = reason
        if self._transport is None:
            return
        if not tell:
            self._transport.abort()
            return
        self._transport.write(encode(dialogue.fault(reason)))
        self._transport.close()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._bounds.parting_s, self._transport.abort)


def _own(connection: Any) -> bool:
    """Whether the process at the other end is this user's. Where the system cannot tell, the socket's folder alone keeps others out."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None or connection is None:
        return True
    _, user, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size))
    return bool(user == os.geteuid())
