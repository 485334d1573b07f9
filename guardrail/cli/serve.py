"""`guardrail serve`: the proxy."""

import asyncio
import contextlib
import functools
import ipaddress
import secrets
import socket
import sys
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
from starlette.applications import Starlette

from guardrail.assembly import Siblings, build_app, check_policies, engines_of, resolve
from guardrail.cli.engine_process import engines_running
from guardrail.cli.listen import address, bind, listening, long_lived, until_signalled
from guardrail.cli.workers import Ready, keep_working
from guardrail.config.load import load
from guardrail.config.models import Config
from guardrail.errors import GuardrailError
from guardrail.telemetry.log_format import configure_logging

MAX_WORKERS = 64
BACKLOG = 2048
SWITCH_S = 0.0005


@click.command()
@click.option(
    "--config", "path", type=click.Path(dir_okay=False, path_type=Path), help="Configuration file (default: all shipped policies)."
)
@click.option("--host", help="Address to listen on (default: the configuration's, else 127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port to listen on (default: the configuration's, else 8080).")
@click.option(
    "--workers",
    type=click.IntRange(1, MAX_WORKERS),
    default=1,
    show_default=True,
    help="Processes that serve requests; each holds its own classifiers, but for a CoPE engine, which they share.",
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
    announce = functools.partial(_announce, config, host, address(listener), workers)
    if workers == 1:
        run(_serve(build_app(config), listener, announce))
        return
    check_policies(config)
    with asyncio.Runner() as runner, contextlib.suppress(KeyboardInterrupt):
        runner.run(_until_ended(_parent(config, _Plan(path, log_level, listener, workers), announce)))


@dataclass(frozen=True, slots=True)
class _Plan:
    """What every worker process is told."""

    config: Path | None
    log_level: str
    listener: socket.socket
    workers: int
    console_secret: bytes = field(default_factory=functools.partial(secrets.token_bytes, 32), repr=False)
    console_ended: Path | None = None


def _work(plan: _Plan, engines: Mapping[str, Path], place: int, ready: Ready) -> None:
    """One of several worker processes."""
    configure_logging(sys.stderr, plan.log_level)
    among = Siblings(engines, plan.workers, plan.console_secret, place, plan.console_ended)
    run(_serve_beside_others(build_app(plan.config, among=among), plan.listener, ready))


async def _parent(config: Config, plan: _Plan, announce: Callable[[], None]) -> None:
    """What the workers share, and the workers, until cancelled."""

    def opened() -> None:
        plan.listener.listen(BACKLOG)  # so that whoever reads the announcement finds the port open
        announce()

    with tempfile.TemporaryDirectory(prefix="guardrail-", ignore_cleanup_errors=True) as folder:
        told = replace(plan, console_ended=Path(folder))
        async with engines_running(engines_of(config), plan.log_level) as engines:
            await keep_working(functools.partial(_work, told, engines), plan.workers, opened)


async def _until_ended(work: Coroutine[Any, Any, None]) -> None:
    """Run it until a signal comes, then let it end in order."""
    task, signalled = asyncio.ensure_future(work), asyncio.ensure_future(until_signalled())
    await asyncio.wait((task, signalled), return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on uvloop, where there is one."""
    # A thread that exports or writes records may keep the interpreter this long each time the event loop wants it back; 5 ms by default.
    sys.setswitchinterval(SWITCH_S)
    factory = None
    with contextlib.suppress(GuardrailError):
        factory = resolve("uvloop:new_event_loop")
    with asyncio.Runner(loop_factory=factory) as runner, contextlib.suppress(KeyboardInterrupt):
        runner.run(work)


async def _serve(app: Starlette, listener: socket.socket, announce: Callable[[], None]) -> None:
    async with app.router.lifespan_context(app):
        with long_lived():
            async with listening(app, listener):
                announce()
                await until_signalled()


async def _serve_beside_others(app: Starlette, listener: socket.socket, ready: Ready) -> None:
    async with app.router.lifespan_context(app):
        await asyncio.to_thread(ready)
        with long_lived():
            async with listening(app, listener):
                await until_signalled()


def _announce(config: Config, host: str, url: str, workers: int) -> None:
    """Say in sentences what runs, and what is unsafe about it."""
    for route in config.routes:
        upstream = config.upstreams[route.upstream]
        where = getattr(upstream, "base_url", None) or f"the {upstream.kind} upstream"
        models = "every model" if route.model == "*" else f"models {route.model}"
        place = f"each inference path of {url}" if route.path == "*" else f"{url}{route.path}"
        click.echo(f"Route {route.name}: {models} at {place}, answered by {where}, judged by {route.classifier} ({route.mode}).")
    click.echo(f"Point your client at {url}/v1 (OPENAI_BASE_URL={url}/v1). Health: {url}/readyz.")
    if config.console is not None:
        click.echo(f"Console: {url}/console, for {'everyone who has the admin key' if config.console.public else 'this machine alone'}.")
    if config.audit_path is not None:
        click.echo(f"Decisions are kept in {config.audit_path}; `guardrail audit` reads them.")
    if workers > 1:
        click.echo(f"{workers} processes; each counts its own requests in flight, and allows its part of the tenants' limits.")
    if not config.tenants and not _is_loopback(host):
        click.echo(
            f"Warning: anyone who reaches {host} can use this proxy and its upstream keys; configure tenants with API keys.", err=True
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
