"""`guardrail serve`: the proxy."""

import asyncio
import contextlib
import functools
import ipaddress
import multiprocessing
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import click
from starlette.applications import Starlette

from guardrail.assembly import build_app, check_policies, resolve
from guardrail.cli.listen import address, bind, listening, until_signalled
from guardrail.config.load import load
from guardrail.config.models import Config
from guardrail.errors import GuardrailError
from guardrail.telemetry.log_format import configure_logging

MAX_WORKERS = 64


@click.command()
@click.option(
    "--config", "path", type=click.Path(dir_okay=False, path_type=Path), help="Configuration file (default: all shipped policies)."
)
@click.option("--host", help="Address to listen on (default: the configuration's, else 127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port to listen on (default: the configuration's, else 8080).")
@click.option(
    "--workers", type=click.IntRange(1, MAX_WORKERS), default=1, show_default=True, help="Processes; each holds its own classifiers."
)
@click.option(
    "--log-level", default="info", show_default=True, type=click.Choice(["debug", "info", "warning", "error"]), help="Of the ordinary log."
)
def serve(path: Path | None, host: str | None, port: int | None, workers: int, log_level: str) -> None:
    """Run the guarding proxy. JSON lines about decisions and faults go to stderr; Ctrl-C or SIGTERM ends it."""
    config = load(path)
    host = host or config.server.host
    listener = bind(host, config.server.port if port is None else port)
    configure_logging(sys.stderr, log_level)
    if workers == 1:
        app = build_app(config)
        run(_serve(app, listener, functools.partial(_announce, config, host, address(listener), workers)))
        return
    check_policies(config)
    _announce(config, host, address(listener), workers)
    _supervise(functools.partial(_work, path, log_level, listener), workers)


def _work(path: Path | None, log_level: str, listener: socket.socket) -> None:
    """One of several worker processes."""
    configure_logging(sys.stderr, log_level)
    run(_serve(build_app(path), listener, lambda: None))


def _supervise(work: Callable[[], None], workers: int) -> None:
    """Run the workers until a signal, or until one of them ends: then end them all, and leave restarting to whoever started us."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    processes = [multiprocessing.get_context("spawn").Process(target=work) for _ in range(workers)]
    try:
        for process in processes:
            process.start()
        wait([process.sentinel for process in processes])
        raise GuardrailError("a worker process ended, so all were stopped; the lines before this one say why")
    except KeyboardInterrupt:
        return
    finally:
        for process in processes:
            if process.pid is not None:
                process.terminate()
                process.join()


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on uvloop, where there is one."""
    factory = None
    with contextlib.suppress(GuardrailError):
        factory = resolve("uvloop:new_event_loop")
    with asyncio.Runner(loop_factory=factory) as runner, contextlib.suppress(KeyboardInterrupt):
        runner.run(work)


async def _serve(app: Starlette, listener: socket.socket, announce: Callable[[], None]) -> None:
    async with app.router.lifespan_context(app), listening(app, listener):
        announce()
        await until_signalled()


def _announce(config: Config, host: str, url: str, workers: int) -> None:
    """Say in sentences what runs, and what is unsafe about it."""
    for route in config.routes:
        upstream = config.upstreams[route.upstream]
        where = getattr(upstream, "base_url", None) or f"the {upstream.kind} upstream"
        models = "every model" if route.model == "*" else f"models {route.model}"
        click.echo(f"Route {route.name}: {models} at {url}{route.path}, answered by {where}, judged by {route.classifier} ({route.mode}).")
    click.echo(f"Point your client at {url}/v1 (OPENAI_BASE_URL={url}/v1). Health: {url}/readyz.")
    if workers > 1:
        click.echo(f"{workers} processes; each counts its own requests in flight.")
    if not config.tenants and not _is_loopback(host):
        click.echo(
            f"Warning: anyone who reaches {host} can use this proxy and its upstream keys; configure tenants with API keys.", err=True
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
