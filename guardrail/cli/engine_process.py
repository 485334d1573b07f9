"""CoPE engines in processes of their own, for `serve --workers N`: `python -m guardrail.cli.engine_process`, orders on standard input."""

import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import click

from guardrail.assembly import load_engine
from guardrail.engine.cope.process.host import run
from guardrail.engine.cope.process.orders import Orders, Reporter, read_orders
from guardrail.engine.cope.process.supervisor import Supervisor
from guardrail.engine.cope.settings import EngineSettings
from guardrail.errors import GuardrailError
from guardrail.telemetry.log_format import configure_logging

COMMAND = (sys.executable, "-m", "guardrail.cli.engine_process")


@contextlib.asynccontextmanager
async def engines_running(wanted: Mapping[str, EngineSettings], log_level: str) -> AsyncIterator[Mapping[str, Path]]:
    """One supervised process for each, by classifier name; yields their sockets when all are ready, one after the other.

    Raises GuardrailError, with the engine's own words, for one that does not come up.
    """
    sockets: dict[str, Path] = {}
    async with contextlib.AsyncExitStack() as stack:
        if wanted:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="guardrail-", ignore_cleanup_errors=True)))
            for number, (name, settings) in enumerate(wanted.items()):
                sockets[name] = folder / f"{number}.sock"
                orders = Orders(name, str(sockets[name]), settings, log_level)
                await stack.enter_async_context(Supervisor(COMMAND, orders))
        yield sockets


def main() -> None:
    """Serve one engine until nobody wants it any more; see `host` for the exit statuses."""
    reporter = Reporter()
    try:
        orders = read_orders(sys.stdin.buffer)
    except GuardrailError as error:
        click.echo(f"guardrail: {error}", err=True)
        sys.exit(2)
    configure_logging(sys.stderr, orders.log_level)
    run(orders, load_engine, reporter)


if __name__ == "__main__":
    main()
