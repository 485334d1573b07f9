"""A running proxy, for what is a client."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from guardrail.cli.demo import staged
from guardrail.testing import ScriptedClassifier, contains


@pytest.fixture
def proxy_url() -> Iterator[str]:
    """The base URL of a proxy around the embedded upstream, in a thread of its own."""
    started, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []
    urls: list[str] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        async with staged(classifiers={"embedded": ScriptedClassifier({"toxicity": contains("worthless idiot")})}) as scene:
            urls.append(f"{scene.url}/v1")
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(20)
    yield urls[0]
    loops[0].call_soon_threadsafe(stop.set)
    thread.join(20)
