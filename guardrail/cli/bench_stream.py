"""`guardrail bench stream`: what each streaming mode costs, in one run."""

import asyncio
import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import aiohttp
import click
from rich.console import Console
from rich.table import Table

from guardrail.assembly import build_app, open_classifier
from guardrail.cli.listen import address, bind, listening
from guardrail.config.load import load
from guardrail.config.models import Config
from guardrail.evaluation.machine import describe
from guardrail.evaluation.stream_bench import DIRECT, Plan, Streamed, Work, bars, counted, summed, timed, whole_check
from guardrail.policy.registry import load_folder, shipped_folder
from guardrail.types import Policy, Stage, StreamMode
from guardrail.upstream.embedded import EmbeddedUpstream

_MODES = (StreamMode.WATCH, StreamMode.OVERLAP, StreamMode.WINDOW, StreamMode.HOLD)


@click.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, exists=True, path_type=Path))
@click.option("--classifier", default="embedded", show_default=True, help="One of FILE's classifiers, `embedded`, or an import string.")
@click.option("--policies", type=click.IntRange(1, 8), default=1, show_default=True, help="How many of the shipped policies judge.")
@click.option("--tokens", type=click.IntRange(10, 100_000), default=1_000, show_default=True, help="Words of the answer.")
@click.option("--rate", type=click.FloatRange(1, 100_000), default=100.0, show_default=True, help="Words a second.")
@click.option("--window", type=click.IntRange(20, 100_000), default=400, show_default=True, help="Characters of a window.")
@click.option("--rounds", type=click.IntRange(1, 100), default=1, show_default=True, help="The modes take turns so often; medians count.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def stream(*, file: Path | None, classifier: str, policies: int, tokens: int, rate: float, window: int, rounds: int, as_json: bool) -> None:
    """Stream one answer of the embedded upstream directly and through the proxy in every mode, over HTTP on this machine.

    Counts what is classified, in checks of the whole answer. FILE is a configuration whose classifier judges. Exits 1 if an answer came
    out other than it was, or a bar was missed.
    """
    plan = Plan(tokens, rate, window, min(80, window - 1), rounds)
    machine = describe()
    rows, resident = asyncio.run(_measured(plan, load(file) if file else None, classifier, _policies(policies)))
    kept = bars(rows, plan, resident=resident)
    if as_json:
        document = {"machine": machine, "plan": asdict(plan), "resident": resident, "modes": [asdict(row) for row in rows]}
        click.echo(json.dumps({**document, "bars": [{"bar": bar, "kept": good} for bar, good in kept]}, indent=2))
    else:
        _show(rows, plan)
        for bar, good in kept:
            click.echo(f"{'kept  ' if good else 'MISSED'} {bar}")
    if not all(good for _, good in kept):
        sys.exit(1)


def _policies(number: int) -> list[Policy]:
    found = [policy for policy in load_folder(shipped_folder()) if Stage.OUTPUT in policy.applies_to]
    return sorted(found, key=lambda policy: policy.id)[:number]


async def _measured(plan: Plan, config: Config | None, name: str, policies: Sequence[Policy]) -> tuple[list[Streamed], bool]:
    times: dict[str, list[tuple[float, float]]] = {mode: [] for mode in (DIRECT, *_MODES)}
    works: dict[str, list[Work]] = {mode: [] for mode in times}
    async with contextlib.AsyncExitStack() as stack:
        judge = counted(await stack.enter_async_context(open_classifier(name, config)))
        await judge.prepare(policies)
        whole = await whole_check(judge, policies, plan.text)
        client = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)))
        upstream = bind("127.0.0.1", 0)
        await stack.enter_async_context(listening(EmbeddedUpstream(delay_s=1 / plan.rate), upstream))
        urls = {DIRECT: address(upstream)}
        for mode in _MODES:
            listener = bind("127.0.0.1", 0)
            app = build_app(_proxy(plan, mode, policies, f"{address(upstream)}/v1"), classifiers={"judge": judge})
            await stack.enter_async_context(app.router.lifespan_context(app))
            await stack.enter_async_context(listening(app, listener))
            urls[mode] = address(listener)
        for _ in range(plan.rounds):
            for way, url in urls.items():
                judge.work = Work()
                first, total, said = await timed(client, url, plan.text)
                if said.strip() != plan.text:
                    raise click.ClickException(f"{way}: what came out is not what was said")
                times[way].append((first, total))
                works[way].append(judge.work)
    return [summed(way, times[way], works[way], whole) for way in times], hasattr(judge, "session")


def _proxy(plan: Plan, mode: StreamMode, policies: Sequence[Policy], url: str) -> Config:
    """A proxy that judges answers alone and blocks none."""
    used = [{"id": policy.id, "action": "annotate"} for policy in policies]
    section = {"mode": mode.value, "window": plan.window, "overlap": plan.overlap}
    route: dict[str, object] = {
        "name": mode.value,
        "input": {"policies": []},
        "output": {"policies": used},
        "stream": section,
        "deadline_ms": 60_000,
    }
    return Config.model_validate(
        {
            "upstreams": {"main": {"kind": "openai", "base_url": url}},
            "classifiers": {"judge": {"kind": "embedded"}},
            "routes": [route],
            "cache": {"entries": 0},
        }
    )


def _show(rows: Sequence[Streamed], plan: Plan) -> None:
    table = Table(title=f"{plan.tokens:,} tokens at {plan.rate:g} a second, windows of {plan.window} characters", title_justify="left")
    for name in ("mode", "first token, s", "total, s", "checks", "work, whole checks", "longest verdict, ms"):
        table.add_column(name, justify="left" if name == "mode" else "right")
    for row in rows:
        told = (f"{row.first_s:.3f}", f"{row.total_s:.3f}", str(row.checks), f"{row.work:.2f}", f"{row.verdict_s * 1000:.1f}")
        table.add_row(row.mode, *told)
    Console().print(table)
