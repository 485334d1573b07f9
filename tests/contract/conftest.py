"""One server for all contract tests."""

import asyncio
from collections.abc import Iterator

import pytest
from contract_server import Running, serving


@pytest.fixture(scope="session")
def server() -> Iterator[Running]:
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def event_loop_of_the_libraries() -> Iterator[None]:
    """Some client libraries ask for the thread's event loop even when used without async, and would leave an open one behind."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
def running(server: Running) -> Running:
    """The server with its counters at zero."""
    server.upstream.hits = 0
    server.tap.requests.clear()
    server.tap.sent.clear()
    return server


@pytest.fixture(scope="session", params=["overlap", "watch"])
def live_server(request: pytest.FixtureRequest) -> Iterator[Running]:
    stream = {"mode": request.param, "window": 20, "overlap": 12, "first_ms": 60_000}
    with serving(input={"policies": []}, stream=stream) as running:
        yield running


@pytest.fixture
def live(live_server: Running) -> Running:
    """A server that lets streams out while they are judged, with its counters at zero. It judges no prompts."""
    live_server.upstream.hits = 0
    live_server.tap.requests.clear()
    live_server.tap.sent.clear()
    return live_server
