"""`guardrail bench engine`: the CoPE engine and what else could judge, side by side on random weights."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import click
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from guardrail.cli.bench_report import machine_line
from guardrail.engine.cope.runners import Kind
from guardrail.evaluation.engine_bench import PARTS, Device, Results, Settings, run
from guardrail.evaluation.engine_models import SHAPES
from guardrail.evaluation.engine_report import document, markdown, plot, sentences, tables
from guardrail.evaluation.engine_streams import Growth
from guardrail.evaluation.engine_work import Lengths
from guardrail.evaluation.machine import describe

WIDTH = 170


def _counts(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        counts = tuple(sorted({int(item) for item in value.split(",")}))
    except ValueError as error:
        raise click.BadParameter("write numbers with commas between them, as in 1,10,100") from error
    if not all(1 <= count <= 1000 for count in counts):
        raise click.BadParameter("each is a number from 1 to 1000")
    return counts


def _parts(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
    parts = tuple(value.split(","))
    if unknown := set(parts) - set(PARTS):
        raise click.BadParameter(f"there is no part {min(unknown)!r}; known are {','.join(PARTS)}")
    return parts


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="small", show_default=True, help="Of the random weights.")
@click.option("--device", type=click.Choice(get_args(Device)), default="cpu", show_default=True)
@click.option("--runner", type=click.Choice(get_args(Kind)), default="auto", show_default=True, help="Which of the engine's runners.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Of every way on the CPU.")
@click.option("--policy-tokens", type=click.IntRange(1), default=1500, show_default=True)
@click.option("--content-tokens", type=click.IntRange(1), default=100, show_default=True)
@click.option("--header-tokens", type=click.IntRange(1), default=5, show_default=True, help="The question behind each content.")
@click.option("--answer-tokens", type=click.IntRange(16), default=480, show_default=True, help="Of the growing answer.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="All ways take turns in each.")
@click.option("--requests", type=click.IntRange(1, 16), default=4, show_default=True, help="Of the slow ways, in each round.")
@click.option("--resident", callback=_counts, default="1,4,16,64,100", show_default=True, help="How many policies are resident at once.")
@click.option("--parts", callback=_parts, default=",".join(PARTS), show_default=True, help="What is measured.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("--out", "--output", "out", type=click.Path(file_okay=False, path_type=Path), help="Write JSON, Markdown and SVG there.")
def engine(
    *,
    shape: str,
    device: Device,
    runner: Kind,
    threads: int,
    policy_tokens: int,
    content_tokens: int,
    header_tokens: int,
    answer_tokens: int,
    rounds: int,
    requests: int,
    resident: tuple[int, ...],
    parts: tuple[str, ...],
    as_json: bool,
    out: Path | None,
) -> None:
    """Compare the CoPE engine with transformers and llama.cpp on the same random weights, all in one process.

    What is fast and wrong is not compared: each way's answers are held against naive ones. Exits 1 if the engine's own are wrong.
    """
    settings = Settings(
        shape=shape,
        device=device,
        runner=runner,
        threads=threads,
        lengths=Lengths(policy_tokens, content_tokens, header_tokens),
        growth=Growth(answer=answer_tokens),
        rounds=rounds,
        requests=requests,
        resident=resident,
        parts=parts,
    )
    machine = describe()
    with Progress(console=Console(stderr=True), transient=True) as bar:
        results = run(settings, _Bar(bar))
    if as_json:
        click.echo(json.dumps(document(results, machine), indent=2))
    else:
        _show(results)
        click.echo(machine_line(machine))
    if out is not None:
        _write(results, machine, out)
    if not results.right:
        raise click.exceptions.Exit(1)


class _Bar:
    """A progress bar whose length is the predicted seconds of what is known to come."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task: TaskID = bar.add_task("building the model", total=None)
        self._total = 0.0

    def expect(self, seconds: float) -> None:
        """So much more is to come."""
        self._total += seconds
        self._bar.update(self._task, total=self._total)

    def passed(self, name: str, seconds: float) -> None:
        """So much of it is done."""
        self._bar.update(self._task, advance=seconds, description=name)


def _show(results: Results) -> None:
    console = Console(width=max(Console().width, WIDTH))  # not a terminal: rich would squeeze it into 80 columns
    for title, headings, cells in tables(results):
        table = Table(title=title, title_justify="left")
        for place, heading in enumerate(headings):
            table.add_column(heading, justify="right" if place else "left", no_wrap=True)
        for row in cells:
            table.add_row(*row)
        console.print(table)
    for sentence in sentences(results):
        click.echo(sentence)


def _write(results: Results, machine: dict[str, object], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lengths = results.settings.lengths
    stem = f"{datetime.now(UTC):%Y-%m-%d}-engine-{results.settings.shape}-{lengths.policy}-{lengths.content}"
    texts = {
        ".json": json.dumps(document(results, machine), indent=2),
        ".md": markdown(results, machine_line(machine)),
        ".svg": plot(results),
    }
    for suffix, text in texts.items():
        path = folder / (stem + suffix)
        path.write_text(text + "\n", encoding="utf-8")
        click.echo(f"{path} written", err=True)
