"""`guardrail bench fuzz`: does the stream guard keep its promises for any chunking?"""

import json
import sys
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from guardrail.evaluation.stream_cases import Case
from guardrail.evaluation.stream_fuzz import Fuzzed
from guardrail.evaluation.stream_fuzz import fuzz as run

_SEEDS = 2**32


@click.command()
@click.option("--seconds", type=click.FloatRange(0.01, 86_400), default=10.0, show_default=True, help="How long to try.")
@click.option("--chunkings", type=click.IntRange(1), help="Stop after so many, if the time has not run out before.")
@click.option("--seed", type=click.IntRange(0, _SEEDS - 1), default=1, show_default=True, help="Equal seeds try equal cases.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def fuzz(*, seconds: float, chunkings: int | None, seed: int, as_json: bool) -> None:
    """Stream random texts in random chunkings through the stream guard, in every mode, judged by a classifier that never errs.

    Choices and tool calls are interleaved, verdicts come in any order, and what is let out is compared with what was judged. Exits 1 if a
    promise was broken, with the smallest case that breaks it.
    """
    found = run(seed, seconds=seconds, chunkings=chunkings)
    if as_json:
        click.echo(json.dumps(_document(found, seed), indent=2))
    else:
        _show(found, seed)
    if found.failed is not None:
        sys.exit(1)


def _document(found: Fuzzed, seed: int) -> dict[str, object]:
    document: dict[str, object] = {"seed": seed, "seconds": round(found.seconds, 3), **asdict(found.counts)}
    if found.failed is not None:
        document |= {"why": found.why, "case": _spelled(found.failed)}
    return document


def _show(found: Fuzzed, seed: int) -> None:
    table = Table(title=f"The stream guard under random chunkings (seed {seed})", title_justify="left")
    table.add_column("what")
    table.add_column("count", justify="right")
    for name, count in asdict(found.counts).items():
        table.add_row(name, f"{count:,}")
    Console().print(table)
    click.echo(f"{found.seconds:.1f} s, {found.counts.chunkings / max(found.seconds, 1e-9):,.0f} chunkings/s.")
    if found.failed is not None:
        click.echo(f"A promise was broken: {found.why}. The smallest case found:")
        click.echo(json.dumps(_spelled(found.failed), indent=1))


def _spelled(case: Case) -> dict[str, object]:
    """A case as JSON, its halves of code points escaped. The texts are the fuzz's own."""
    return {
        "streaming": asdict(case.streaming),
        "bounds": asdict(case.bounds),
        "action": case.action.word,
        "as_words": case.as_words,
        "parts": [asdict(part) for part in case.parts],
        "pieces": case.pieces,
        "order": case.order,
    }
