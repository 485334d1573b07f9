"""`guardrail audit replay`: judge a recorded decision's text again, and print what is different."""

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from guardrail.assembly import open_guard
from guardrail.audit.record import DECISION, AuditRecord
from guardrail.audit.replay import Change, Comparison, compare, narrowed, parts_of, replayable
from guardrail.cli.audit_options import configuration, opened
from guardrail.config.audit import RouteAuditConfig
from guardrail.config.models import Config
from guardrail.errors import GuardrailError
from guardrail.policy.document import read
from guardrail.types import Decision, Part, Policy, Stage

_MAX_CHARS = 10_000_000


@click.command()
@click.argument("id")
@click.option(
    "--config",
    "config_path",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Configuration with the section `audit`, whose policies and classifiers judge again.",
)
@click.option("--store", type=click.Path(dir_okay=False, path_type=Path), help="The store's file (default: the configuration's).")
@click.option("--policy", "policies", multiple=True, metavar="ID|FILE", help="Judge by this policy, or version of it; repeatable.")
@click.option("--text", "texts", multiple=True, help="The text where none is kept, one for each part; - reads standard input.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def replay(id: str, config_path: Path, store: Path | None, policies: Sequence[str], texts: Sequence[str], *, as_json: bool) -> None:  # noqa: A002
    """Judge the decision ID again, by the policies that are in force now or by those given, and print the difference.

    Exits 0 when the same is decided, 1 when it is not, 2 when it could not be judged, or not as it was: an answer with the prompt
    (judge_with), a request whose earlier turns are mended. A text that is given is compared with the keyed hash of what was judged.
    """
    reader, keys = opened(store, config_path)
    record = reader.get(id)
    if record is None or record.kind != DECISION:
        raise GuardrailError(f"there is no decision {id!r} in {reader.path}; it may have been pruned")
    if record.genuine is False:
        click.echo(f"The record of decision {record.id} is not what was written: see `guardrail audit verify`.", err=True)
    given = [sys.stdin.read(_MAX_CHARS) if text == "-" else text for text in texts] or None
    parts = parts_of(record, given, keys.texts)
    redacted = given is None and record.keeps == "redacted"
    if redacted:
        click.echo("The text was kept redacted: what violated in it is not judged again.", err=True)
    wanted = [read(Path(name)) if name.endswith(".md") or "/" in name else name for name in policies]
    decision, found = asyncio.run(_judged(configuration(config_path), record, parts, wanted))
    if as_json:
        told = {"same": found.same, "action": found.action, "changes": [asdict(change) | {"same": change.same} for change in found.changes]}
        click.echo(json.dumps({"id": record.id, "redacted": redacted, "unjudged": decision.outcome.unjudged, **told}, indent=2))
    else:
        click.echo("\n".join(_lines(found)))
    if decision.outcome.unjudged:
        raise click.exceptions.Exit(2)
    if not found.same:
        raise click.exceptions.Exit(1)


async def _judged(
    config: Config, record: AuditRecord, parts: Sequence[Part], policies: Sequence[str | Policy]
) -> tuple[Decision, Comparison]:
    """As the route judges now; what is replayed is not recorded again."""
    routes = tuple(route.model_copy(update={"audit": RouteAuditConfig()}) for route in config.routes)
    async with open_guard(config.model_copy(update={"audit": None, "console": None, "routes": routes})) as guard:
        stage, in_force = Stage(record.stage), () if guard.table is None else guard.table.for_tenant(record.tenant)
        route = next((each for each in in_force if each.name == record.route), None)
        if route is None:
            raise GuardrailError(f"tenant {record.tenant!r} has no route {record.route!r} in {config.source.path}, so nothing judges again")
        if policies:
            route = await guard.narrowed(route, stage, policies, tenant=record.tenant)
            record = narrowed(record, {policy.id if isinstance(policy, Policy) else policy for policy in policies}, route)
        replayable(record, route)
        decision = await guard.check(parts, policies=policies or None, stage=stage, route=record.route, tenant=record.tenant)
        return decision, compare(record, decision, route, alone=bool(policies))


def _lines(found: Comparison) -> list[str]:
    lines = [_line(change) for change in found.changes if not change.same]
    then, now = found.action
    lines.append(f"The action was {then} and is {now}." if then != now else f"The action is {now}, as it was.")
    same = sum(change.same for change in found.changes)
    flips = len(found.flips)
    return [*lines, f"{same} verdicts are the same, {len(found.changes) - same} are not, {flips} of them the other way round."]


def _line(change: Change) -> str:
    then, now = (_said(score, violates) for score, violates in zip(change.score, change.violation, strict=True))
    old, new = change.version
    version = f"{old or 'not asked'} -> {new or 'not asked'}" if old != new else new
    return f"{change.policy} ({version}) on {change.part}: {then} -> {now}"


def _said(score: float | None, violates: bool) -> str:
    return "no score" if score is None else f"{score:.4f} {'violates' if violates else 'passes'}"
