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
from guardrail.cli.evaluate_outputs import Extras, check_writable, write_reports, write_thresholds
from guardrail.errors import GuardrailError
from guardrail.evaluation.baseline_tfidf import examples
from guardrail.evaluation.evaluation_report import markdown
from guardrail.evaluation.predictions import read_run
from guardrail.evaluation.run import Plan, Progress, evaluate
from guardrail.evaluation.summary import summarise


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
@click.option("--write-thresholds", "target", metavar="TARGET", help="Put a target's threshold into the policies' files: f1, fpr=0.01, ...")
@click.option("--bells-o", is_flag=True, help="Also write one JSON file a text, in the format of BELLS-O.")
@click.option("--show-text", is_flag=True, help="Let the HTML report and the BELLS-O files hold the texts. They may be offensive.")
def run(
    sets: Sequence[str],
    name: str,
    config_path: Path | None,
    wanted: Sequence[str],
    areas: dict[str, str],
    out: Path,
    limit: int | None,
    batch: int,
    target: str | None,
    bells_o: bool,
    show_text: bool,
) -> None:
    """Judge labelled data by policies and report how well, into --out: predictions, report.md, report.html, results.json, TSV.

    Exits 1 when something could not be judged. Called again, it asks only for what is missing, and reports anew.
    """
    if target is not None:
        check_writable(wanted, target)
    plan = Plan(chosen_sets(sets), chosen_policies(wanted), areas, batch, limit)
    last = asyncio.run(_evaluate(plan, name, config_path, out))
    click.echo(f"{last.done} of {last.total} texts judged, {last.before} of them before; {last.failed} judgements failed. {out}", err=True)
    info, found = read_run(out)
    summary = summarise(plan, info, found)
    write_reports(out, summary, found, Extras(bells_o, show_text))
    click.echo(markdown(summary))
    if target is not None:
        for line in write_thresholds(summary, plan.policies, target):
            click.echo(line, err=True)
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
