"""`guardrail train sweep`: a seeded search over a trainer's settings, with a leaderboard."""

from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from guardrail.training.sweep import Progress, Sweep, leaderboard, planned
from guardrail.training.sweep import run as run_sweep
from guardrail.training.sweep_command import CommandTrial, read_spec


def _rungs(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter("write whole numbers with commas between them, as in 100,300,900") from error
    if list(found) != sorted(set(found)) or found[0] < 1:
        raise click.BadParameter("write rising numbers above 0, as in 100,300,900")
    return found


@click.command("sweep")
@click.argument("spec", metavar="NAME|FILE")
@click.argument("more", nargs=-1, type=click.UNPROCESSED)
@click.option("--trials", type=click.IntRange(1), default=30, show_default=True, help="Settings that are tried; the first is that of now.")
@click.option(
    "--rungs", default="100,300,900", show_default=True, callback=_rungs, help="Steps of all trials, of the best, of the best of these."
)
@click.option(
    "--keep", type=click.FloatRange(0, 1, min_open=True), default=1 / 3, show_default="1/3", help="Share that goes on to the next."
)
@click.option("--budget", type=click.IntRange(1), help="Steps of all trials together at most.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of what is drawn, and of every training.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/sweep"), show_default=True, help="Goes on.")
@click.option("--metric", help="Rank by this number (default: the spec's).")
def sweep(
    spec: str,
    more: Sequence[str],
    trials: int,
    rungs: tuple[int, ...],
    keep: float,
    budget: int | None,
    seed: int,
    folder: Path,
    metric: str | None,
) -> None:
    """Try settings of a trainer at random, the best of them for longer; print the ranking and leave it in --folder.

    NAME is `embedded`, `cope` or `adapter`; a FILE in YAML says how to run any other command. Words behind `--` go to every trial. One that
    stopped goes on: trials.jsonl holds what was tried, leaderboard.md and leaderboard.tsv the ranking. Exits 1 when a trial failed.
    """
    told = read_spec(spec)
    command = CommandTrial(told, metric or told.metric, more)
    asked = Sweep(
        told.parameters,
        metric or told.metric,
        told.highest,
        trials,
        rungs,
        keep,
        seed,
        budget,
        trainer=" ".join([*told.command, *more]),
    )
    columns = (TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[best]}"), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("trials", total=sum(planned(asked)), best="")

        def report(progress: Progress) -> None:
            best = progress.best
            shown = f"{asked.metric} {best.metrics[asked.metric]:.4f} (trial {best.trial})" if best else ""
            bar.update(task, completed=progress.done, best=shown)

        found = run_sweep(asked, command, folder, report=report)
    table, sheet = leaderboard(asked, found)
    (folder / "leaderboard.md").write_text(table, encoding="utf-8")
    (folder / "leaderboard.tsv").write_text(sheet, encoding="utf-8")
    click.echo(table, nl=False)
    if any(each.error for each in found):
        raise click.exceptions.Exit(1)
