"""What the commands below `guardrail audit` have in common: which store, and which of its records."""

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from guardrail.audit.keys import Secrets, StoreKeys, open_keys
from guardrail.audit.opening import store_keys
from guardrail.audit.store import AuditReader, Filter
from guardrail.config.environment import process_environment
from guardrail.config.load import load
from guardrail.config.models import Config
from guardrail.errors import GuardrailError

F = TypeVar("F", bound=Callable[..., Any])

_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}


def which_store(command: F) -> F:
    """The options that say which store."""
    for option in (
        click.option("--store", type=click.Path(dir_okay=False, path_type=Path), help="The store's file (default: the configuration's)."),
        click.option(
            "--config", "config_path", type=click.Path(dir_okay=False, path_type=Path), help="Configuration with the section `audit`."
        ),
    ):
        command = option(command)
    return command


def which_records(command: F) -> F:
    """The options that narrow records down."""
    for option in reversed(
        (
            click.option("--tenant", help="Of this tenant."),
            click.option("--route", help="Under this route."),
            click.option("--stage", type=click.Choice(["input", "output"]), help="Prompts or answers."),
            click.option("--policy", help="Judged by this policy."),
            click.option("--violated", metavar="POLICY", help="Found to violate this policy."),
            click.option("--action", type=click.Choice(["pass", "annotate", "redact", "block"]), help="What was done."),
            click.option("--unjudged", is_flag=True, default=None, help="Only those over something that could not be judged."),
            click.option("--since", metavar="WHEN", callback=_when, help="From then on: 2026-01-31, 2026-01-31T12:00, or 90m, 2h, 7d ago."),
            click.option("--until", metavar="WHEN", callback=_when, help="Before then."),
            click.option("--request", "request_id", metavar="ID", help="Of this request."),
            click.option("--trace", "trace_id", metavar="ID", help="Of this trace."),
            click.option("--text", help="Over exactly this text; its keyed hash is compared."),
        )
    ):
        command = option(command)
    return command


def filter_of(options: dict[str, Any]) -> Filter:
    """The filter of those options."""
    return Filter(**options)


def configuration(path: Path | None) -> Config:
    """The configuration. Raises GuardrailError without one, since it names the store and its keys."""
    if path is None:
        raise GuardrailError("which store? Give --config FILE with a section `audit`, or --store FILE")
    return load(path)


def opened(store: Path | None, config_path: Path | None) -> tuple[AuditReader, StoreKeys]:
    """The reader of a store and its keys: those that the configuration names, else the ones that lie beside it."""
    environment = process_environment()
    if config_path is None and store is not None:
        keys = open_keys(store, Secrets())
        return AuditReader(store, keys), keys
    config = configuration(config_path)
    keys = store_keys(config, environment)
    path = store or config.audit_path
    assert path is not None  # `store_keys` has seen to it
    return AuditReader(path, keys), keys


def _when(context: click.Context, option: click.Parameter, value: str | None) -> float | None:
    """Seconds since 1970 of a date, a time (UTC unless it says otherwise), or an age."""
    if value is None:
        return None
    if ago := _AGO.fullmatch(value):
        return time.time() - float(ago[1]) * _UNITS[ago[2]]
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter("write it like 2026-01-31, 2026-01-31T12:00 or 2h", context, option) from None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
