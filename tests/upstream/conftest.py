"""Real servers on loopback: uvicorn for ASGI apps, and raw sockets for what no proper server would do."""

import asyncio
import contextlib

import pytest
import uvicorn


@pytest.fixture
async def serve():
    """Serve an ASGI app; gives its address."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(app):
            config = uvicorn.Config(app, port=0, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
            server = uvicorn.Server(config)
            task = asyncio.ensure_future(server.serve())
            stack.push_async_callback(_stop, server, task)
            while not server.started:
                await asyncio.sleep(0.005)
            return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

        yield start


async def _stop(server, task):
    server.should_exit = True
    await task


@pytest.fixture
async def serve_raw():
    """Serve bytes: `answer(reader, writer)` is called for each connection. Gives the address."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(answer):
            async def connected(reader, writer):
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    await answer(reader, writer)
                writer.close()

            server = await asyncio.start_server(connected, "127.0.0.1", 0)
            stack.push_async_callback(_close, server)
            return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

        yield start


async def _close(server):
    server.close()
