"""`guardrail evaluate run`: judge labelled data, resumably, and report how well."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from guardrail.cli.evaluate_options import (
    chosen_classifier,
    chosen_policies,
    chosen_sets,
    classifier_option,
    config_option,
    policy_option,
)
from guardrail.errors import GuardrailError
from guardrail.evaluation.baseline_tfidf import examples
from guardrail.evaluation.run import Plan, Progress, evaluate


def _areas(_: click.Context, __: click.Parameter, value: Sequence[str]) -> dict[str, str]:
    pairs = [part.partition("=") for part in value]
    if not all(middle and policy for _, middle, policy in pairs):
        raise click.BadParameter("write AREA=POLICY, as in hate_speech=my_hate")
    return {area: policy for area, _, policy in pairs}


@click.command()
@click.option(
    "--data", "sets", multiple=True, required=True, metavar="NAME|FILE", help="Set of GUARDRAIL_DATA, .jsonl or .csv; repeatable."
)
@classifier_option
@config_option
@policy_option
@click.option("--area", "areas", multiple=True, callback=_areas, metavar="AREA=POLICY", help="Judge an area by this policy (or by `any`).")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the run; one that stopped goes on.")
@click.option("--limit", type=click.IntRange(1), help="At most so many texts of each set, evenly spaced (default: all).")
@click.option("--batch", type=click.IntRange(1, 4096), default=16, show_default=True, help="Texts in one call; 1 measures latency.")
def run(
    sets: Sequence[str],
    name: str,
    config_path: Path | None,
    wanted: Sequence[str],
    areas: dict[str, str],
    out: Path,
    limit: int | None,
    batch: int,
) -> None:
    """Judge labelled data by policies and keep what was said. Exits 1 when something could not be judged; again, it asks only for that."""
    plan = Plan(chosen_sets(sets), chosen_policies(wanted), areas, batch, limit)
    last = asyncio.run(_evaluate(plan, name, config_path, out))
    click.echo(f"{last.done} of {last.total} texts judged, {last.before} of them before; {last.failed} judgements failed. {out}", err=True)
    if last.failed:
        raise click.exceptions.Exit(1)


async def _evaluate(plan: Plan, name: str, config_path: Path | None, out: Path) -> Progress:
    columns = (TextColumn("judging"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    last: Progress | None = None
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("judging", total=None)
        async with chosen_classifier(name, config_path, examples(plan)) as classifier:
            async for last in evaluate(classifier, plan, out):
                bar.update(task, total=last.total, completed=last.done)
    if last is None:
        raise GuardrailError("nothing was judged")
    return last
