"""What contradictory examples are asked for on the command line, and `guardrail train contradictory`, which writes them down."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from guardrail.config.environment import process_environment
from guardrail.errors import GuardrailError
from guardrail.training.contradictory import MIX, Builder, Contradictions
from guardrail.training.contradictory_sampler import builder_rows
from guardrail.training.embedded import split
from guardrail.training.rows import load_rows
from guardrail.training.triples import manifest, steps_of, survey, triples, write
from guardrail.training.variants import Wordings

DEFAULTS = Contradictions()
ORDERS = ("mixed", "rising", "falling", "blocks")


def contradiction_options(share: float) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options of a recipe's contradiction steps; `share` is the default."""
    options = (
        click.option("--contradictory", "share", type=click.FloatRange(0, 1), default=share, show_default=True, help="Share of the steps."),
        click.option("--order", type=click.Choice(ORDERS), default=DEFAULTS.order, show_default=True, help="Where those steps stand."),
        click.option(
            "--mix",
            multiple=True,
            metavar="KIND=WEIGHT",
            help=f"Weight of a kind of step; repeatable. Kinds: {', '.join(MIX)}; 0 leaves one out.",
        ),
        click.option(
            "--criteria", type=click.IntRange(2), default=DEFAULTS.criteria, show_default=True, help="Groups or areas against each other."
        ),
        click.option(
            "--most-to-one", type=click.FloatRange(1), default=DEFAULTS.most_to_one, show_default=True, help="Of a commoner label, at most."
        ),
    )

    def apply(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


def contradictions_of(share: float, order: str, mix: Sequence[str], criteria: int, most_to_one: float) -> Contradictions:
    """The recipe of the options. Raises BadParameter for one that makes no sense."""
    weights = dict(MIX)
    try:
        for part in mix:
            kind, _, weight = part.partition("=")
            weights[kind] = float(weight)
        return Contradictions(share, order, weights, criteria, most_to_one=most_to_one)  # type: ignore[arg-type]
    except ValueError as error:
        raise click.BadParameter(f"{error} (write --mix as KIND=WEIGHT, as in group=0.5)") from error


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Folder of the labelled sets (default: GUARDRAIL_DATA)."
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/contradictory"), show_default=True)
@click.option(
    "--steps", type=click.IntRange(1), default=200, show_default=True, help="Length of the run whose contradiction steps are written."
)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option(
    "--held-out", is_flag=True, help="Held-out texts, wordings, groups, uses and topics instead: for testing, never for training."
)
@contradiction_options(1.0)
def contradictory(data: Path | None, out: Path, steps: int, seed: int, held_out: bool, **options: Any) -> None:
    """Write (policy, content, label) triples that disagree, with a manifest, for the training of any model."""
    where = data or process_environment().data_folder
    if where is None:
        raise GuardrailError("no training data: give --data FOLDER or set GUARDRAIL_DATA")
    recipe = contradictions_of(**options)
    wordings = Wordings.load(held_out=held_out)
    learnt, kept = split([*load_rows(where), *wordings.topic_rows()])
    rows = builder_rows(kept if held_out else learnt, wordings, held_out=held_out)
    builder = Builder(rows, tuple(wordings.topics), recipe, held_out=held_out)
    drawn = list(steps_of(builder, recipe, seed=seed, steps=steps))
    described = manifest(rows, recipe, survey(drawn), seed=seed, data=where)
    count = write(out, triples(drawn, wordings, seed=seed, held_out=held_out), described)
    click.echo(f"{out}: {count} triples of {len(drawn)} steps")
