"""A running proxy on a loopback port, a running upstream on another, and a record of every byte sent to clients."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from guardrail.assembly import build_app
from guardrail.cli.listen import address, bind, listening
from guardrail.config.models import Config
from guardrail.testing import ScriptedClassifier, contains
from guardrail.upstream.embedded import EmbeddedUpstream


@dataclass
class Tap:
    """Around the proxy: the path and the whole response body of each request, as bytes."""

    app: Any
    requests: list[str] = field(default_factory=list)
    sent: bytearray = field(default_factory=bytearray)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests.append(scope["path"])

        async def tapped(message: Any) -> None:
            self.sent += message.get("body", b"")
            await send(message)

        await self.app(scope, receive, tapped)


@dataclass
class Running:
    """The proxy as a client sees it (`url`), and what a client does not see."""

    url: str
    upstream: EmbeddedUpstream
    tap: Tap

    @property
    def hits(self) -> int:
        """Chat completions that reached the upstream."""
        return self.upstream.hits

    @property
    def asked(self) -> int:
        """Requests that reached the proxy."""
        return len(self.tap.requests)

    @property
    def sent(self) -> bytes:
        """Every byte of every response body."""
        return bytes(self.tap.sent)


@contextmanager
def serving(**route: Any) -> Iterator[Running]:
    """The proxy and its upstream in a thread of their own. `route` sets keys of the only route."""
    upstream = EmbeddedUpstream()
    behind, before = bind("127.0.0.1", 0), bind("127.0.0.1", 0)
    upstreams = {"model": {"kind": "openai", "base_url": f"{address(behind)}/v1"}}
    config = Config.model_validate({"upstreams": upstreams, "routes": [{"name": "default", **route}]})
    app = build_app(config, classifiers={"embedded": ScriptedClassifier({"harassment": contains("worthless idiot")})})
    tap = Tap(app)
    started, stop = threading.Event(), asyncio.Event()

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        async with listening(upstream, behind), app.router.lifespan_context(app), listening(tap, before):
            started.set()
            await stop.wait()

    loops: list[asyncio.AbstractEventLoop] = []
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(20)
    yield Running(f"{address(before)}/v1", upstream, tap)
    loops[0].call_soon_threadsafe(stop.set)
    thread.join(20)
