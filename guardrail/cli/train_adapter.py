"""`guardrail train adapter`: a multilabel adapter for the categories of your data, which a `kind: adapter` classifier serves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from guardrail.cli.train_lora import Option, lora_of, lora_options, pace_of, pace_options, steps_bar, with_options
from guardrail.training.adapter import AdapterPlan, train_adapter
from guardrail.training.adapter_batches import Shape
from guardrail.training.adapter_model import AdapterRecipe
from guardrail.training.adapter_rows import read_data
from guardrail.training.adapter_thresholds import Target
from guardrail.training.steps import Upkeep

BASE = "Qwen/Qwen3-0.6B"
RECIPE = AdapterRecipe()

_OPTIONS: tuple[Option, ...] = (
    # what is learnt
    *lora_options(RECIPE.lora),
    click.option(
        "--balance",
        type=click.FloatRange(0, 1),
        default=RECIPE.balance,
        show_default=True,
        help="A category's violating texts weigh (others / violating) to this power: 1 is as much as the others together.",
    ),
    click.option("--weight", "weights", multiple=True, metavar="CATEGORY=W", help="Weight of a category in the loss; repeatable."),
    click.option(
        "--noise",
        type=click.FloatRange(0, 1),
        default=RECIPE.noise,
        show_default=True,
        help="Share of the texts, violating or not, that get another surface: line ends, case, quotes, spaces, punctuation.",
    ),
    click.option(
        "--longest", type=click.IntRange(16), default=RECIPE.longest, show_default=True, help="Tokens; longer texts are left out."
    ),
    # how it is learnt
    click.option("--epochs", type=click.IntRange(1), default=RECIPE.epochs, show_default=True),
    click.option("--batch", type=click.IntRange(1), default=RECIPE.shape.batch, show_default=True, help="Texts of a step."),
    click.option("--tokens", type=click.IntRange(32), default=RECIPE.shape.tokens, show_default=True, help="Of a pass, with padding."),
    *pace_options(RECIPE.pace),
)

recipe_options = with_options(_OPTIONS)
"""The options that `recipe_of` reads."""


def recipe_of(told: Mapping[str, Any], categories: Sequence[str]) -> AdapterRecipe:
    """The recipe of the options. Raises BadParameter for a weight that makes no sense."""
    weights: dict[str, float] = {}
    for part in told["weights"]:
        name, _, number = part.rpartition("=")
        if name not in categories:
            raise click.BadParameter(f"--weight {part}: there is no category {name!r}; there are {', '.join(categories)}")
        try:
            weights[name] = float(number)
        except ValueError as error:
            raise click.BadParameter(f"--weight {part}: write CATEGORY=W, as in {categories[0]}=2") from error
    return AdapterRecipe(
        epochs=told["epochs"],
        lora=lora_of(told),
        pace=pace_of(told),
        shape=Shape(told["batch"], told["tokens"]),
        balance=told["balance"],
        weights=weights,
        noise=told["noise"],
        longest=told["longest"],
    )


@click.command("adapter")
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    required=True,
    help="JSON lines, gzipped or not; repeatable. See above.",
)
@click.option("--base", default=BASE, show_default=True, help="Folder or owner/name[@revision] on the hub; any causal language model.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/adapter"),
    show_default=True,
    help="Goes on from here, too.",
)
@click.option("--category", "categories", multiple=True, help="Learn these, in this order; repeatable (default: all in the data).")
@click.option(
    "--thresholds",
    default="f1",
    show_default=True,
    metavar="f1|fpr=X",
    help="What each category's threshold is chosen for, on held-out units: the highest F1, or at most the share X of the others flagged.",
)
@recipe_options
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="bf16 on GPU, fp32 on CPU.")
@click.option("--threads", type=click.IntRange(1), help="Of the CPU (default: torch's).")
@click.option("--recompute", is_flag=True, help="Keep less in memory, compute it again: a third more work.")
@click.option("--checkpoint-every", type=click.IntRange(1), default=100, show_default=True, help="Steps.")
@click.option(
    "--opencc-head",
    is_flag=True,
    help="Write the head in PyTorch's own format (a pickle) too, the only one that OpenCC's reader loads.",
)
def adapter(
    data: Sequence[Path],
    base: str,
    output: Path,
    categories: Sequence[str],
    thresholds: str,
    device: str,
    threads: int | None,
    recompute: bool,
    checkpoint_every: int,
    opencc_head: bool,
    **options: Any,
) -> None:
    """Train a multilabel adapter: LoRA and a linear head, one output a category. It reads no policies, unlike `train cope`.

    A row is {"text": "…", "labels": {"CATEGORY": 1 | 0 | null, …}, "unit": "…"}: 1 violates, 0 does not; null or a missing category is
    unknown and teaches nothing; rows of one `unit` leak into each other and are never split. Rows of `guardrail evaluate` do as well:
    {"text", "area", "label"}, where the area is the category, and label 0 under `benign`, `general_harm` or no area says 0 of all.

    One unit in five is held out: half of those choose thresholds and calibrations, half are only measured. Serve the output with
    `kind: adapter`; OpenCC's reader takes it, too.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    rows = read_data(data, categories)
    target = Target.parse(thresholds)
    plan = AdapterPlan(
        base, rows, output, recipe_of(options, rows.categories), target, Upkeep(checkpoint_every), device, recompute, opencc_head
    )
    with steps_bar() as report:
        record = train_adapter(plan, report=report)
    _told(output, record)


def _told(output: Path, record: Mapping[str, Any]) -> None:
    texts = record["texts"]
    if texts["too_long"] or texts["unlabelled"]:
        click.echo(f"left out: {texts['too_long']:,} texts that are too long, {texts['unlabelled']:,} without a known label", err=True)
    table = Table("category", title=f"On {texts['reported']:,} texts that were neither learnt nor calibrated on", title_justify="left")
    columns = ("threshold", "positives", "precision", "recall", "f1", "fpr", "auc")
    for column in columns:
        table.add_column(column, justify="right")
    for name, found in record["categories"].items():
        table.add_row(name, *("" if found[column] is None else f"{found[column]:g}" for column in columns))
    Console().print(table)
    for name, found in record["categories"].items():
        if found["why"]:
            click.echo(f"{name}: {found['why']}", err=True)
    click.echo(f"{output}: {record['weights']}. Serve it: classifiers: {{main: {{kind: adapter, model: {output}}}}}")
