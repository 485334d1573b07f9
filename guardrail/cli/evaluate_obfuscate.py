"""`guardrail evaluate obfuscate`: what is still found when texts are disguised."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from guardrail.cli.evaluate_options import chosen_classifier, chosen_policies, classifier_option, config_option, policy_option
from guardrail.disguises import DISGUISES, Disguise, pairs
from guardrail.redteam.obfuscation import Case, Obfuscation, as_json, markdown, measure
from guardrail.types import ReadingLimits


@click.command()
@classifier_option
@config_option
@policy_option
@click.option("--pairs", "with_pairs", is_flag=True, help="Also every disguise upon every other one.")
@click.option("--disguise", "names", multiple=True, metavar="NAME", help="Only this one; repeatable (default: all).")
@click.option("--limit", type=click.IntRange(1), help="At most so many violating and so many benign cases of each policy.")
@click.option("--json", "as_json_", is_flag=True, help="Print JSON instead of Markdown.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Also write the JSON into this file.")
def obfuscate(
    name: str,
    config_path: Path | None,
    wanted: Sequence[str],
    with_pairs: bool,
    names: Sequence[str],
    limit: int | None,
    as_json_: bool,
    out: Path | None,
) -> None:
    """Disguise the policies' own test cases and judge them, as they are spelled and as they are read.

    Each disguise alone, and (`in lines`) over two lines behind a plain and harmless one, beside the same lines undisguised.
    """
    known = {disguise.name: disguise for disguise in DISGUISES}
    if unknown := [one for one in names if one not in known]:
        raise click.UsageError(f"there is no disguise {unknown[0]!r}; there are: {', '.join(known)}")
    chosen = [known[one] for one in names] or list(DISGUISES)
    cases = [
        (policy, case)
        for policy in chosen_policies(wanted)
        for expected in (1, 0)
        for case in [case for case in policy.tests if case.expected == expected][:limit]
    ]
    in_lines = [disguise.in_lines() for disguise in chosen if disguise.decodable]
    table = asyncio.run(_measure(cases, [*chosen, *(pairs(chosen) if with_pairs else ()), *in_lines], name, config_path))
    told = json.dumps(as_json(table), indent=1, ensure_ascii=False)
    if out is not None:
        out.write_text(told + "\n", encoding="utf-8")
    click.echo(told if as_json_ else markdown(table))


async def _measure(cases: Sequence[Case], disguises: Sequence[Disguise], name: str, config_path: Path | None) -> Obfuscation:
    columns = (TextColumn("judging"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("judging", total=None)
        async with chosen_classifier(name, config_path) as classifier:
            return await measure(
                classifier,
                cases,
                disguises,
                limits=ReadingLimits(),
                report=lambda done, total: bar.update(task, completed=done, total=total),
            )
