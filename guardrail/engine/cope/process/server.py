"""Serves one engine to many clients on a Unix socket in a folder that is nobody else's."""

import asyncio
import logging
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from guardrail.engine.cope.messages import EngineClient
from guardrail.engine.cope.process.conversation import Conversation
from guardrail.engine.cope.process.link import Bounds, Link
from guardrail.errors import GuardrailError

LONGEST_PATH = 100  # bytes; systems allow 104 to 108
HEALTH_S = 0.5

logger = logging.getLogger("guardrail.engine")


class EngineServer:
    """Usable inside `async with`; the engine is the caller's, and is closed by the caller."""

    def __init__(self, engine: EngineClient, path: Path, *, bounds: Bounds | None = None, health_s: float = HEALTH_S) -> None:
        self.path = path
        self.clients: set[Conversation] = set()
        self.dropped = 0
        """Clients that did not read their answers and were parted from."""
        self._engine = engine
        self._bounds = bounds or Bounds()
        self._health_s = health_s
        self._count = 0
        self._alone = asyncio.Event()
        self._alone.set()
        self._server: asyncio.Server | None = None
        self._telling: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Listen. Raises GuardrailError when the path is too long, or its folder is not this user's alone."""
        check_private(self.path)
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.get_running_loop().create_unix_server(self._greet, str(self.path))
        self.path.chmod(0o600)
        self._telling = asyncio.create_task(self._keep_telling())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Part from every client; what they still wait for is taken back from the engine."""
        if self._server is not None:
            self._server.close()
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.wait((self._telling,))
        for client in list(self.clients):
            await client.close()
        self.path.unlink(missing_ok=True)

    @property
    def outstanding(self) -> int:
        """Questions of all clients that have no answer yet."""
        return sum(client.outstanding for client in self.clients)

    async def alone(self) -> None:
        """Return when there is no client."""
        await self._alone.wait()

    def _greet(self) -> Link:
        self._count += 1
        client = Conversation(self._engine, str(self._count), self._left, bounds=self._bounds)
        self.clients.add(client)
        self._alone.clear()
        asyncio.get_running_loop().call_later(self._bounds.hello_s, self._ungreeted, client)
        return client.link

    def _ungreeted(self, client: Conversation) -> None:
        if not client.greeted:
            client.link.part(f"nothing was said within {self._bounds.hello_s:g} s")

    def _left(self, client: Conversation) -> None:
        self.clients.discard(client)
        if not self.clients:
            self._alone.set()
        self.dropped += client.link.overflowed
        level = logging.WARNING if client.link.overflowed else logging.INFO
        logger.log(level, "worker %s left the engine: %s (%d dropped so far)", client.name, client.reason, self.dropped)

    async def _keep_telling(self) -> None:
        while True:
            await asyncio.sleep(self._health_s)
            health = self._engine.health()
            for client in list(self.clients):
                client.tell(health)


def check_private(path: Path) -> None:
    """Raises GuardrailError unless a socket at `path` would be out of everybody else's reach."""
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise GuardrailError(f"the engine's socket path has more than {LONGEST_PATH} bytes: {path}; set TMPDIR to a shorter one")
    found = path.parent.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise GuardrailError(f"the folder of the engine's socket must be this user's alone (mode 0700): {path.parent}")
