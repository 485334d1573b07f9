"""One server for all contract tests."""

from collections.abc import Iterator

import pytest
from contract_server import Running, serving


@pytest.fixture(scope="session")
def server() -> Iterator[Running]:
    with serving() as running:
        yield running


@pytest.fixture
def running(server: Running) -> Running:
    """The server with its counters at zero."""
    server.upstream.hits = 0
    server.tap.requests.clear()
    server.tap.sent.clear()
    return server
