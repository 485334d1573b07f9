"""`guardrail model`: make, check and describe the model folder that a `kind: cope` classifier runs."""

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from guardrail.engine.cope.facts import POLICY_TOKENS, Facts, facts
from guardrail.engine.cope.manifest import Delta
from guardrail.engine.cope.memory import gib
from guardrail.engine.cope.merge import DTYPES, MergePlan, Step, merge
from guardrail.engine.cope.source import locate
from guardrail.engine.cope.verification import Subject, verify
from guardrail.policy.prompt import TEMPLATES

BASE, ADAPTER = "google/gemma-2-9b", "zentropi-ai/cope-a-9b"


@click.group()
def model() -> None:
    """Make, check and describe the models of `kind: cope` classifiers."""


@model.command("merge")
@click.option("--base", default=BASE, show_default=True, help="Folder or owner/name[@revision] on the hub.")
@click.option("--adapter", default=ADAPTER, show_default=True, help="The same for the LoRA adapter.")
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), default=Path("models/cope-a-9b"), show_default=True, help="New folder."
)
@click.option("--dtype", type=click.Choice([*DTYPES, "keep"]), default="bfloat16", show_default=True, help="keep: the base's own.")
@click.option("--template", type=click.Choice(sorted(TEMPLATES)), default="A", show_default=True, help="Whose prompts it was trained on.")
def merge_command(base: str, adapter: str, output: Path, dtype: str, template: str) -> None:
    """Merge an adapter into its base model, in fp32, and save it with digests. An interrupted merge goes on where it stopped."""
    plan = MergePlan(locate(base), locate(adapter), output, dtype, template)
    with _bar("merging") as advance:
        done = 0

        def report(step: Step) -> None:
            nonlocal done
            advance(step.done - done, step.total)
            done = step.done

        manifest = merge(plan, report)
    Console().print(_deltas(manifest.deltas))
    click.echo(f"{output}: {gib(manifest.bytes)} in {manifest.dtype}, {manifest.digest}")
    click.echo(f"Next: guardrail model verify {output}")


@model.command("verify")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--base", help="Where the base lies now (default: where the manifest says).")
@click.option("--adapter", help="The same for the adapter.")
@click.option("--device", default="cpu", show_default=True, help="What compares the scores: cpu, cuda.")
@click.option("--quick", is_flag=True, help="Leave out what needs base and adapter.")
def verify_command(folder: Path, base: str | None, adapter: str | None, device: str, quick: bool) -> None:
    """Check a merged model: files, template, tokenizer, weights and scores against base and adapter. Exits 1 when one fails."""
    total = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    with _bar("digests") as advance:
        checks = verify(Subject(folder, base, adapter, device), quick=quick, report=lambda count: advance(count, total))
        first = next(checks)
    failed = False
    for checked in itertools.chain([first], checks):
        click.echo(f"{'ok' if checked.passed else 'FAILED':7}{checked.name}: {checked.detail}")
        failed |= not checked.passed
    sys.exit(1 if failed else 0)


@model.command("info")
@click.argument("place")
def info_command(place: str) -> None:
    """Describe a model: shape, digests, the memory it needs, how many policies stay resident beside it. Loads nothing."""
    found = facts(place)
    click.echo(f"{found.architecture}: {found.parameters:,} parameters in {found.dtype}, {gib(found.stored)}")
    click.echo(", ".join(f"{name} {value:,}" for name, value in found.shape))
    Console().print(_rooms(found))
    if (manifest := found.manifest) is None:
        click.echo("no manifest: a plain checkpoint, whose digests nobody vouches for")
        return
    for what, origin in (("base", manifest.base), ("adapter", manifest.adapter)):
        if origin is not None:
            click.echo(f"{what} {origin.name}{f' at {origin.revision}' if origin.revision else ''}, {origin.digest}")
    click.echo(f"model {manifest.digest}")
    click.echo(f"tokenizer {manifest.tokenizer}; template {manifest.template}; made by {manifest.tool}")
    Console().print(_deltas(manifest.deltas))


def _deltas(deltas: tuple[Delta, ...]) -> Table:
    table = Table("projection", title="What the adapter changes", title_justify="left")
    for column in ("weights", "|change| / |weight|", "of it lost to rounding"):
        table.add_column(column, justify="right")
    for delta in deltas:
        table.add_row(delta.kind, str(delta.tensors), f"{delta.relative:.2%}", f"{delta.lost_share:.2%}")
    return table


def _rooms(found: Facts) -> Table:
    table = Table("on", title="What it needs", title_justify="left")
    for column in ("weights", "while loading", "KV per token", "there is", f"policies of {POLICY_TOKENS:,} tokens"):
        table.add_column(column, justify="right")
    for room in found.rooms:
        there = "not here" if room.memory is None else gib(room.memory)
        fit = "" if room.policies is None else str(room.policies)
        table.add_row(room.name, gib(room.weights), gib(room.loading), f"{room.kv / 1024:,.1f} KiB", there, fit)
    return table


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn(what), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    console = Console(stderr=True)
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def advance(count: int, total: int) -> None:
            bar.update(task, advance=count, total=total)

        yield advance
