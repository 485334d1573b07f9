"""The servers that `guardrail bench proxy` compares, each in a process of its own."""

import contextlib
import logging
import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import aiohttp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from guardrail.assembly import build_app
from guardrail.cli.listen import address, bind, listening, long_lived, until_signalled
from guardrail.cli.serve import run
from guardrail.config.environment import export_to
from guardrail.config.models import Config
from guardrail.errors import ClassifierError, GuardrailError
from guardrail.telemetry.log_format import configure_logging
from guardrail.testing import ScriptedClassifier
from guardrail.types import ClassifyRequest, Score
from guardrail.upstream.embedded import EmbeddedUpstream

START_S = 120.0  # a loaded machine needs a while to import torch and to read the weights


@dataclass(frozen=True, slots=True)
class Around:
    """What a server finds: base URLs of the upstream and of a collector of telemetry, and a folder of its own."""

    upstream: str = ""
    collector: str = ""
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers at a base URL, and the number of its process."""

    url: str
    pid: int


def _direct(_: Around) -> Any:
    """The upstream itself."""
    return EmbeddedUpstream()


async def _collector(scope: Any, receive: Any, send: Any) -> None:
    """Takes what is exported and forgets it."""
    del scope
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def _bare(around: Around) -> Starlette:
    """The least a proxy can do with the same parts: read the request, ask aiohttp, answer with what came."""
    sessions: list[aiohttp.ClientSession] = []

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()) as session:
            sessions.append(session)
            yield

    async def forward(request: Request) -> Response:
        headers = {"content-type": request.headers["content-type"]}
        async with sessions[0].post(around.upstream + request.url.path, data=await request.body(), headers=headers) as answer:
            return Response(await answer.read(), answer.status, {"content-type": answer.headers["content-type"]})

    return Starlette(routes=[Route("/v1/chat/completions", forward, methods=["POST"])], lifespan=lifespan)


class _Costless(ScriptedClassifier):
    """Remembers nothing of what it was asked: over many requests that would be most of what the server holds."""

    async def classify(self, requests: Sequence[ClassifyRequest], *, deadline: float) -> list[Score | ClassifierError]:
        """See `ScriptedClassifier`."""
        answers = await super().classify(requests, deadline=deadline)
        self.requests.clear()
        return answers


def _unguarded(around: Around) -> Starlette:
    """The proxy with a route that checks nothing."""
    nothing: dict[str, object] = {"policies": []}
    config = _config(around, {"name": "off", "input": nothing, "output": nothing})
    return build_app(config, classifiers={"embedded": ScriptedClassifier()})


def _scripted(around: Around) -> Starlette:
    """The proxy with every shipped policy in both stages and a classifier that costs nothing."""
    return build_app(_config(around, {"name": "scripted"}), classifiers={"embedded": _Costless()})


def _guarded(around: Around) -> Starlette:
    """The proxy as `guardrail serve` runs it."""
    return build_app(_config(around, {"name": "embedded"}))


def _observed(serve: Callable[[Around], Starlette], around: Around) -> Starlette:
    """The same, watched: every request's spans and the metrics by OTLP, and the audit store."""
    export_to(around.collector)
    return serve(around)


# Name in the results -> the app, given the upstream's base URL.
SERVERS: dict[str, Callable[[Around], Any]] = {
    "upstream, direct": _direct,
    "bare passthrough": _bare,
    "guarding off": _unguarded,
    "scripted classifier": _scripted,
    "embedded classifier": _guarded,
    "scripted classifier, observed": partial(_observed, _scripted),
    "embedded classifier, observed": partial(_observed, _guarded),
    "collector": lambda _: _collector,
}
DIRECT, BARE, OFF, SCRIPTED, EMBEDDED, SCRIPTED_OBSERVED, EMBEDDED_OBSERVED, COLLECTOR = SERVERS


def _config(around: Around, route: dict[str, object]) -> Config:
    watched: dict[str, object] = {"audit": {"path": f"{around.folder}/audit.db"}} if around.collector else {}
    cache = {"entries": 0}  # what is measured is judging: no question may be answered from memory
    return Config.model_validate(
        {"upstreams": {"main": {"kind": "openai", "base_url": f"{around.upstream}/v1"}}, "routes": [route], "cache": cache, **watched}
    )


@contextlib.contextmanager
def running(name: str, around: Around | None = None) -> Iterator[Running]:
    """One of the servers in its own process for the length of the block, when it answers.

    Raises GuardrailError when it does not come up.
    """
    listener = bind("127.0.0.1", 0)
    url = address(listener)
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(name, around or Around(), listener), daemon=True)
    process.start()
    try:
        _wait_for(name, process, listener)
        yield Running(url, process.pid or 0)
    finally:
        listener.close()
        process.terminate()
        process.join()


def _wait_for(name: str, process: BaseProcess, listener: socket.socket) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.is_alive():
        with contextlib.suppress(OSError), socket.create_connection(listener.getsockname(), timeout=1.0):
            return
        time.sleep(0.05)
    raise GuardrailError(f"the server `{name}` did not come up; the lines before this one may say why")


def _work(name: str, around: Around, listener: socket.socket) -> None:
    """In the server's process: as `guardrail serve` does it, its log written and thrown away."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, tempfile.TemporaryDirectory(prefix="guardrail-bench-") as folder:
        configure_logging(nowhere, "info")
        logging.captureWarnings(capture=True)
        run(_serve(SERVERS[name](replace(around, folder=folder)), listener))


async def _serve(app: Any, listener: socket.socket) -> None:
    lifespan = app.router.lifespan_context(app) if isinstance(app, Starlette) else contextlib.nullcontext()
    async with lifespan:
        with long_lived():
            async with listening(app, listener):
                await until_signalled()
