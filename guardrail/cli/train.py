"""`guardrail train`: make the weights that ship."""

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from guardrail.cli import TRAININGS, LazyGroup
from guardrail.cli.train_contradictory import contradiction_options, contradictions_of
from guardrail.cli.train_contradictory import contradictory as contradictory_command
from guardrail.config.environment import process_environment
from guardrail.errors import GuardrailError
from guardrail.policy.registry import load_folder, shipped_folder
from guardrail.training.embedded import Plan, train_embedded
from guardrail.training.held_out import measure
from guardrail.training.trainer import Progress, Recipe

DEFAULTS = Recipe()
# Numbers of the recipe that have no option of their own.
FIELDS = tuple(
    each.name for each in fields(Recipe) if isinstance(getattr(DEFAULTS, each.name), int | float) and each.name not in ("steps", "seed")
)


@click.group(cls=LazyGroup, table=TRAININGS)
def train() -> None:
    """Train classifiers: the one that ships, and your own."""


train.add_command(contradictory_command)


@train.command()
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Folder of the labelled sets (default: GUARDRAIL_DATA)."
)
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), default=Path("runs/embedded/embedded.safetensors"), show_default=True
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/embedded"),
    show_default=True,
    help="Checkpoints; an interrupted run goes on from here.",
)
@click.option("--steps", type=click.IntRange(1), default=DEFAULTS.steps, show_default=True)
@click.option("--seed", type=int, default=DEFAULTS.seed, show_default=True)
@click.option(
    "--init", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Go on from these weights instead of the base model's."
)
@click.option(
    "--rate", type=click.FloatRange(0, 10, min_open=True), help="Factor on both learning rates (default: 1; with --init a third)."
)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--log", type=click.Path(path_type=Path, dir_okay=False), help="Append step, loss and seconds here, a line every 20 steps.")
@click.option("--set", "settings", multiple=True, metavar="FIELD=NUMBER", help=f"Of the recipe; repeatable: {', '.join(FIELDS)}.")
@click.option("--metrics", type=click.Path(path_type=Path, dir_okay=False), help="Measure on held-out units and wordings, into this file.")
@contradiction_options(0.0)
def embedded(
    data: Path | None,
    output: Path,
    folder: Path,
    steps: int,
    seed: int,
    init: Path | None,
    rate: float | None,
    threads: int,
    log: Path | None,
    settings: Sequence[str],
    metrics: Path | None,
    **contradictory: Any,
) -> None:
    """Train the embedded policy reader on the sets that may train shipped weights, plus this project's own text."""
    import torch  # noqa: PLC0415  (heavy; `--help` should not wait for it)

    torch.set_num_threads(threads)
    where = data or process_environment().data_folder
    if where is None:
        raise GuardrailError("no training data: give --data FOLDER or set GUARDRAIL_DATA")
    recipe = _with(Recipe(steps=steps, seed=seed, contradictions=contradictions_of(**contradictory)), settings)
    recipe = recipe.at(rate or (1.0 if init is None else 1 / 3))
    console = Console(stderr=True)
    columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("loss {task.fields[loss]:.4f}"), TimeRemainingColumn())
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("train", total=steps, loss=0.0)

        def report(progress: Progress) -> None:
            bar.update(task, completed=progress.step, loss=progress.loss)
            if log is not None and progress.step % 20 == 0:
                with log.open("a", encoding="utf-8") as lines:
                    lines.write(f"{progress.step}\t{progress.loss:.4f}\t{progress.seconds:.0f}\n")

        digest = train_embedded(Plan(where, folder, output, recipe, init), load_folder(shipped_folder()), report=report)
    click.echo(f"{output}: sha256 {digest}")
    if metrics is not None:
        found = measure(output, where, load_folder(shipped_folder()))
        metrics.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        click.echo(", ".join(f"{name} {value:.4f}" for name, value in found.items()))


def _with(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """The recipe with fields set. Raises BadParameter for one that is none, or no number."""
    changed: dict[str, float] = {}
    for part in settings:
        name, _, number = part.partition("=")
        if name not in FIELDS:
            raise click.BadParameter(f"--set {part}: there is no field {name!r}; there are {', '.join(FIELDS)}")
        try:
            changed[name] = type(getattr(recipe, name))(number)
        except ValueError as error:
            raise click.BadParameter(f"--set {part}: {number!r} is not a number of its kind") from error
    return replace(recipe, **changed)  # type: ignore[arg-type]
