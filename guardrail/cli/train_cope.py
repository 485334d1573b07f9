"""`guardrail train cope`: fine-tune a causal language model into a CoPE, and make the folder that a `kind: cope` classifier serves."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import torch
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn

from guardrail.cli.train_lora import Option, bar_on_terminal, lora_of, lora_options, pace_of, pace_options, steps_bar, with_options
from guardrail.engine.cope.merge import DTYPES, Step
from guardrail.policy.prompt import TEMPLATES
from guardrail.training.causal import Plan, train_causal
from guardrail.training.causal_learner import Recipe
from guardrail.training.causal_packs import Layout
from guardrail.training.causal_result import Ending, Made, finish
from guardrail.training.steps import Upkeep

BASE = "google/gemma-2-9b"
RECIPE = Recipe()
_SHOWN = ("accuracy", "f1", "auc", "opposed", "log_loss", "outside")

_place = click.Path(path_type=Path, exists=True)
_OPTIONS: tuple[Option, ...] = (
    # what is learnt
    *lora_options(RECIPE.lora),
    click.option(
        "--outside",
        type=click.FloatRange(0, 1),
        default=RECIPE.outside,
        show_default=True,
        help="Weight of what the model says besides 0 and 1: 0 is the loss over the two answers, 1 that over the whole vocabulary.",
    ),
    click.option("--positive-weight", type=click.FloatRange(0, min_open=True), default=RECIPE.positive, show_default=True),
    click.option("--template", type=click.Choice(sorted(TEMPLATES)), default=RECIPE.template, show_default=True),
    click.option(
        "--longest", type=click.IntRange(64, RECIPE.longest), default=RECIPE.longest, show_default=True, help="Prompt, in tokens."
    ),
    # how it is learnt
    click.option("--epochs", type=click.IntRange(1), default=RECIPE.epochs, show_default=True),
    click.option("--steps", type=click.IntRange(1), help="So many, instead of epochs."),
    *pace_options(RECIPE.pace),
    click.option("--tokens", type=click.IntRange(64), default=RECIPE.layout.tokens, show_default=True, help="Of a pass, with padding."),
    click.option("--accumulate", type=click.IntRange(1), default=RECIPE.layout.accumulate, show_default=True, help="Passes of a step."),
    click.option(
        "--share",
        type=click.IntRange(1),
        default=RECIPE.layout.share,
        show_default=True,
        help="Contents that are run behind one policy at most; 1 runs each prompt whole. The gradient is the same.",
    ),
    click.option("--longest-pack", type=click.IntRange(64), default=RECIPE.layout.longest_pack, show_default=True),
    click.option("--order", type=click.Choice(["shuffled", "file"]), default=RECIPE.layout.order, show_default=True),
)

recipe_options = with_options(_OPTIONS)
"""The options that `recipe_of` reads."""


def recipe_of(held_out: int, told: dict[str, Any]) -> Recipe:
    """The recipe of the options."""
    return Recipe(
        lora=lora_of(told),
        pace=pace_of(told),
        layout=Layout(told["tokens"], told["share"], told["longest_pack"], told["accumulate"], told["order"]),
        epochs=told["epochs"],
        steps=told["steps"],
        outside=told["outside"],
        positive=told["positive_weight"],
        template=told["template"],
        longest=told["longest"],
        held_out=held_out,
    )


@click.command("cope")
@click.option("--base", default=BASE, show_default=True, help="Folder or owner/name[@revision] on the hub; any causal language model.")
@click.option(
    "--data",
    type=_place,
    multiple=True,
    required=True,
    help="JSON lines with policy, content, label; or a folder that `guardrail train contradictory` wrote. Repeatable.",
)
@click.option("--validation", type=_place, multiple=True, help="The same, to measure on; its units and contents are not learnt.")
@click.option(
    "--held-out", type=click.IntRange(0), default=RECIPE.held_out, show_default=True, help="Without it: one unit in so many; 0: none."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/cope"),
    show_default=True,
    help="Goes on from here, too.",
)
@recipe_options
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--dtype", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", show_default=True, help="Of the base in training."
)
@click.option("--threads", type=click.IntRange(1), help="Of the CPU (default: torch's).")
@click.option("--checkpoint-every", type=click.IntRange(1), default=50, show_default=True, help="Steps.")
@click.option("--validate-every", type=click.IntRange(0), default=0, show_default=True, help="Steps; 0: before and after.")
@click.option(
    "--merge", "merged", type=click.Choice([*DTYPES, "keep", "none"]), default="bfloat16", show_default=True, help="Type of the model."
)
@click.option("--calibrate", is_flag=True, help="Fit a calibration on the held-out examples, beside the weights.")
def cope(
    base: str,
    data: Sequence[Path],
    validation: Sequence[Path],
    held_out: int,
    output: Path,
    device: Any,
    dtype: Any,
    threads: int | None,
    checkpoint_every: int,
    validate_every: int,
    merged: Any,
    calibrate: bool,
    **options: Any,
) -> None:
    """Train a LoRA adapter on (policy, content, label), merge it into its base, and verify the result."""
    if threads is not None:
        torch.set_num_threads(threads)
    upkeep = Upkeep(checkpoint_every, validate_every)
    plan = Plan(base, tuple(data), output, recipe_of(held_out, options), tuple(validation), device, dtype, upkeep)
    with steps_bar() as report:
        trained = train_causal(plan, report=report)
    if trained.too_long:
        click.echo(f"{trained.too_long:,} examples are longer than {plan.recipe.longest:,} tokens; they were left out, not cut", err=True)
    with _bytes() as advance:
        made = finish(plan, trained, Ending(None if merged == "none" else merged, calibrate), report=advance)
    _told(plan, made)


def _told(plan: Plan, made: Made) -> None:
    note = made.note
    click.echo(
        f"{note['steps']:,} steps, {note['tokens']:,} tokens at {note['tokens_per_s']:,.0f}/s (as whole prompts "
        f"{note['prompt_tokens_per_s']:,.0f}/s), peak memory {note['peak_memory_bytes'] / (1 << 30):.1f} GiB"
    )
    for each in note["validations"][:1] + note["validations"][-1:]:
        shown = ", ".join(f"{name} {each[name]:.3f}" for name in _SHOWN if name in each)
        click.echo(f"held out, {each['examples']:,.0f} examples, after {each['step']:,} steps: {shown}")
    if note["metrics"].get("outside", 0.0) > 0.5:
        click.echo(
            "most of the probability lies on tokens that are no answer: the engine will refuse them; train on, or raise --outside", err=True
        )
    for check in made.checks:
        click.echo(f"{'ok' if check.passed else 'FAILED':7}{check.name}: {check.detail}")
    if why := note.get("calibration", {}).get("none"):
        click.echo(f"not calibrated: {why}", err=True)
    if made.model is None:
        click.echo(f"{plan.output}: adapter, training.json. Next: guardrail model merge --base {plan.base} --adapter {plan.output}/adapter")
    else:
        click.echo(f"{made.model}: {note['model']}. Serve it: classifiers: {{main: {{kind: cope, model: {made.model}}}}}")


@contextmanager
def _bytes() -> Iterator[Callable[[Step], None]]:
    with bar_on_terminal((TextColumn("merging"), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())) as bar:
        task = bar.add_task("merge", total=None)
        yield lambda step: bar.update(task, completed=step.done, total=step.total)
