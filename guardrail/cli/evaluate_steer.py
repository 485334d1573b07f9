"""`guardrail evaluate steer`: does a classifier follow the policy it is given?"""

import asyncio
import json
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
from guardrail.evaluation.steer import Sample, Steering, labelled_samples, own_samples
from guardrail.evaluation.steer import steer as run_probes
from guardrail.evaluation.steer_report import as_json, markdown
from guardrail.types import Policy


@click.command()
@click.option("--data", "sets", multiple=True, metavar="NAME|FILE", help="Probe with labelled sets in place of our own texts; repeatable.")
@classifier_option
@config_option
@policy_option
@click.option("--limit", type=click.IntRange(1), help="At most so many texts of each set, evenly spaced (default: all).")
@click.option("--json", "as_json_", is_flag=True, help="Print JSON instead of Markdown.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Also write the JSON into this file.")
def steer(
    sets: Sequence[str],
    name: str,
    config_path: Path | None,
    wanted: Sequence[str],
    limit: int | None,
    as_json_: bool,
    out: Path | None,
) -> None:
    """Probe whether a classifier reads policies: turned round, off topic, carved out, with one criterion alone, shorter, in other words."""
    policies = chosen_policies(wanted)
    samples: list[Sample] = []
    for data in chosen_sets(sets):
        found = labelled_samples(data.items, policies)
        count = len(found) if limit is None else min(limit, len(found))
        samples += [found[place * len(found) // count] for place in range(count)]
    if not sets:
        samples = own_samples(policies)
    if not samples:
        raise click.UsageError("there is nothing to probe with: no text with a known label is about one of these policies")
    steering = asyncio.run(_probe(policies, samples, name, config_path))
    told = json.dumps(as_json(steering), indent=1, ensure_ascii=False)
    if out is not None:
        out.write_text(told + "\n", encoding="utf-8")
    click.echo(told if as_json_ else markdown(steering))


async def _probe(policies: Sequence[Policy], samples: Sequence[Sample], name: str, config_path: Path | None) -> Steering:
    columns = (TextColumn("probing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("probing", total=None)
        async with chosen_classifier(name, config_path) as classifier:
            return await run_probes(classifier, policies, samples, report=lambda done, total: bar.update(task, completed=done, total=total))
