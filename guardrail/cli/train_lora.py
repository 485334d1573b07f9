"""What the commands that train with LoRA share: the options of the adapter and of the pace, and the progress bar."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from guardrail.training.lora import Lora
from guardrail.training.steps import Pace, Progress

Option = Callable[[Callable[..., Any]], Callable[..., Any]]


def lora_options(lora: Lora) -> tuple[Option, ...]:
    """The options that `lora_of` reads."""
    return (
        click.option("--rank", type=click.IntRange(1), default=lora.rank, show_default=True, help="Of the adapter."),
        click.option("--alpha", type=click.IntRange(1), default=lora.alpha, show_default=True, help="Change times alpha / rank."),
        click.option("--dropout", type=click.FloatRange(0, 0.9), default=lora.dropout, show_default=True),
        click.option(
            "--target", multiple=True, help="Projection to adapt, by last name; repeatable (default: all linear ones of the layers)."
        ),
    )


def pace_options(pace: Pace) -> tuple[Option, ...]:
    """The options that `pace_of` reads."""
    return (
        click.option("--rate", type=click.FloatRange(0, min_open=True), default=pace.rate, show_default=True),
        click.option("--schedule", type=click.Choice(["cosine", "linear", "constant"]), default=pace.schedule, show_default=True),
        click.option("--warm-up", type=click.FloatRange(0, 1), default=pace.warm_up, show_default=True, help="Share of the steps."),
        click.option("--weight-decay", type=click.FloatRange(0), default=pace.weight_decay, show_default=True),
        click.option("--seed", type=int, default=pace.seed, show_default=True),
    )


def with_options(options: Sequence[Option]) -> Option:
    """A decorator that adds options to a command, in this order."""

    def added(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return added


def lora_of(told: Mapping[str, Any]) -> Lora:
    """The shape of the adapter that the options say."""
    return Lora(told["rank"], told["alpha"], told["dropout"], tuple(told["target"]))


def pace_of(told: Mapping[str, Any]) -> Pace:
    """The pace that the options say."""
    return Pace(rate=told["rate"], schedule=told["schedule"], warm_up=told["warm_up"], weight_decay=told["weight_decay"], seed=told["seed"])


@contextmanager
def steps_bar() -> Iterator[Callable[[Progress], None]]:
    """A bar of steps, with loss and speed, and what moves it."""
    columns = (
        *(TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("loss {task.fields[loss]:.4f}")),
        *(TextColumn("{task.fields[speed]:,.0f} tokens/s"), TimeRemainingColumn()),
    )
    with bar_on_terminal(columns) as bar:
        task = bar.add_task("train", total=None, loss=0.0, speed=0.0)

        def report(progress: Progress) -> None:
            bar.update(task, completed=progress.step, total=progress.steps, loss=progress.smooth, speed=progress.tokens_per_s)

        yield report


@contextmanager
def bar_on_terminal(columns: Sequence[ProgressColumn]) -> Iterator[Bar]:
    """A progress bar on stderr, silent where that is no terminal."""
    console = Console(stderr=True)
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        yield bar
