"""`guardrail bench`: what guarding costs on this machine."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress, TaskID
from yarl import URL

from guardrail.assembly import EMBEDDED_CLASSIFIER, open_classifier, resolve
from guardrail.cli import BENCHES, LazyGroup
from guardrail.cli.bench_observed import memory_sentences, observed_sentences
from guardrail.cli.bench_report import Report, show, write
from guardrail.cli.bench_servers import (
    BARE,
    COLLECTOR,
    DIRECT,
    EMBEDDED,
    EMBEDDED_OBSERVED,
    OFF,
    SCRIPTED,
    SCRIPTED_OBSERVED,
    Around,
    Running,
    running,
)
from guardrail.errors import ModelFileError
from guardrail.evaluation.latency import Case, Latency, measure
from guardrail.evaluation.load import Burst, Requests, burst
from guardrail.evaluation.machine import describe
from guardrail.evaluation.overhead import Load, Yardsticks, summarise
from guardrail.policy.registry import load_folder, shipped_folder

WARM_UP_S = 0.5
BAR = 0.6
TOKENS = (16, 128, 256)
BATCHED_TOKENS = 128
EMBEDDED_NAME = "embedded"

Rounds = dict[tuple[str, int], list[Burst]]


def _numbers(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(item) for item in value.split(","))
    except ValueError as error:
        raise click.BadParameter("write numbers with commas between them, as in 1,8,32") from error
    if not all(1 <= number <= 1024 for number in numbers):
        raise click.BadParameter("each is a number from 1 to 1024")
    return numbers


_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
_out = click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Also write DATE-….json and .md into this folder.")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much load: seconds for each server under each number of connections, cut into rounds."""

    seconds: float
    rounds: int
    connections: tuple[int, ...]
    stream: bool

    @property
    def settings(self) -> dict[str, object]:
        """As it is reported."""
        return {"seconds": self.seconds, "rounds": self.rounds, "connections": list(self.connections), "stream": self.stream}


@click.group(cls=LazyGroup, table=BENCHES)
def bench() -> None:
    """Measure what guarding costs on this machine."""


@bench.command()
@click.option("--seconds", type=click.FloatRange(0.05, 600), default=6.0, show_default=True, help="For each server and connection count.")
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="Those seconds are cut into this many rounds.")
@click.option("--connections", callback=_numbers, default="1,8,32", show_default=True, help="How many requests are in flight at once.")
@click.option("--stream", is_flag=True, help="Ask for streamed answers.")
@click.option(
    "--embedded/--no-embedded", default=True, help="Measure the embedded classifier too (default: yes, if its weights are there)."
)
@click.option("--observed", is_flag=True, help="Measure with audit store and OTLP on, beside the same without, instead of guarding off.")
@click.option(
    "--soak",
    type=click.IntRange(0),
    default=0,
    help="With --observed: then send it this many requests with the scripted classifier, and tell its memory at tenths.",
)
@click.option("--min-ratio", type=click.FloatRange(0), help=f"Exit 1 if guarding off reaches less than this share of bare (aim: {BAR}).")
@_as_json
@_out
def proxy(
    *,
    seconds: float,
    rounds: int,
    connections: tuple[int, ...],
    stream: bool,
    embedded: bool,
    observed: bool,
    soak: int,
    min_ratio: float | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Compare the proxy with a bare passthrough and with its upstream, all in one run.

    Each server has its own process; the rounds take turns between them, so that noise hits all alike. Exits 1 if a request failed.
    """
    plan = Plan(seconds, rounds, connections, stream)
    machine = describe()
    notes: list[str] = []
    with contextlib.ExitStack() as stack:
        servers = _start(stack, notes, embedded=embedded, observed=observed)
        bursts = _rounds({name: server.url for name, server in servers.items()}, plan)
        loads = summarise(bursts, Yardsticks(DIRECT, BARE))
        if observed:
            notes += observed_sentences(bursts, plan.connections)
            notes += memory_sentences(servers[SCRIPTED_OBSERVED], soak) if soak else []
    notes += [*([] if observed else [_against_bar(loads, BAR if min_ratio is None else min_ratio)]), *_failed(loads)]
    kind = ("proxy-observed" if observed else "proxy") + ("-stream" if stream else "")
    report = Report(kind, "What the proxy costs", loads, plan.settings, machine, notes)
    _deliver(report, out, as_json=as_json)
    if not passes(loads, min_ratio):
        raise click.exceptions.Exit(1)


@bench.command()
@click.option("--seconds", type=click.FloatRange(0.01, 600), default=5.0, show_default=True, help="For each row.")
@click.option("--tokens", callback=_numbers, default=",".join(map(str, TOKENS)), show_default=True, help="Lengths of the texts.")
@click.option("--threads", callback=_numbers, default="1,2", show_default=True, help="Processor threads of the embedded classifier.")
@click.option(
    "--batch", type=click.IntRange(1, 1024), default=32, show_default=True, help="Texts in one call, where throughput is measured."
)
@click.option("--classifier", default=EMBEDDED_NAME, show_default=True, help="`embedded`, or a factory's import string.")
@_as_json
@_out
def classifier(
    *, seconds: float, tokens: tuple[int, ...], threads: tuple[int, ...], batch: int, classifier: str, as_json: bool, out: Path | None
) -> None:
    """Measure a classifier in this process: one text at a time under one and under all shipped policies, and many texts in one call.

    The embedded one is asked in turn with its reference: the network's own modules, as training runs them.
    """
    machine = describe()
    counts = threads if classifier == EMBEDDED_NAME else (1,)
    found = [asyncio.run(_latencies(classifier, _cases(tokens, batch), seconds, count)) for count in counts]
    rows = [row for _, measured in found for row in measured]
    title = f"Time to judge: {found[0][0]}"
    report = Report("classifier", title, rows, {"seconds": seconds, "batch": batch, "classifier": found[0][0]}, machine)
    _deliver(report, out, as_json=as_json)


def _cases(lengths: Sequence[int], batch: int) -> list[Case]:
    policies = load_folder(shipped_folder())
    one = [Case(asked, max(3, length)) for asked in (policies[:1], policies) for length in lengths]
    return [*one, Case(policies, BATCHED_TOKENS, batch), Case(policies, BATCHED_TOKENS, batch, mixed=True)]


async def _latencies(wanted: str, cases: Sequence[Case], seconds: float, threads: int) -> tuple[str, list[Latency]]:
    """What the classifier calls itself, and a row for each case."""
    async with contextlib.AsyncExitStack() as stack:
        reference = None
        if wanted == EMBEDDED_NAME:
            load = resolve(EMBEDDED_CLASSIFIER).load
            opened, reference = load(threads=threads), load(threads=threads, reference=True)
            for each in (opened, reference):
                stack.push_async_callback(each.aclose)
                await each.prepare(cases[-1].policies)
        else:
            opened = await stack.enter_async_context(open_classifier(wanted))
            await opened.prepare(cases[-1].policies)
        return opened.id, [await measure(opened, case, seconds=seconds, threads=threads, reference=reference) for case in cases]


def _start(stack: contextlib.ExitStack, notes: list[str], *, embedded: bool, observed: bool) -> dict[str, Running]:
    """The servers that can be measured, by name."""
    upstream = stack.enter_context(running(DIRECT))
    names = [BARE, SCRIPTED, SCRIPTED_OBSERVED] if observed else [BARE, OFF, SCRIPTED]
    if embedded and (missing := asyncio.run(_missing_weights())):
        notes.append(f"The embedded classifier was not measured: {missing}")
    elif embedded:
        names += [EMBEDDED, EMBEDDED_OBSERVED] if observed else [EMBEDDED]
    around = Around(upstream.url)
    watched = replace(around, collector=stack.enter_context(running(COLLECTOR)).url if observed else "")
    found = {
        name: stack.enter_context(running(name, watched if name in (SCRIPTED_OBSERVED, EMBEDDED_OBSERVED) else around)) for name in names
    }
    return {DIRECT: upstream} | found


async def _missing_weights() -> str | None:
    try:
        async with open_classifier("embedded"):
            return None
    except ModelFileError as error:
        return str(error)


def _rounds(urls: Mapping[str, str], plan: Plan) -> Rounds:
    found: Rounds = {(name, count): [] for count in plan.connections for name in urls}
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("measuring", total=len(found) * plan.rounds)
        asyncio.run(_measure(urls, plan, found, (bar, task)))
    return found


async def _measure(urls: Mapping[str, str], plan: Plan, found: Rounds, progress: tuple[Progress, TaskID]) -> None:
    places = {name: (URL(url).host or "", URL(url).port or 0) for name, url in urls.items()}
    requests = {name: Requests(host=f"{host}:{port}", stream=plan.stream) for name, (host, port) in places.items()}
    slice_s = plan.seconds / plan.rounds
    for name, place in places.items():
        await burst(place, requests[name], connections=max(plan.connections), seconds=min(WARM_UP_S, slice_s))
    for count in plan.connections:
        for number in range(plan.rounds):
            # Forwards, then backwards: nobody always comes after the same neighbour.
            for name in list(urls)[:: -1 if number % 2 else 1]:
                found[name, count].append(await burst(places[name], requests[name], connections=count, seconds=slice_s))
                progress[0].advance(progress[1])


def passes(loads: Sequence[Load], min_ratio: float | None) -> bool:
    """Whether every request was answered and, where a ratio is asked for, guarding off reached it at every connection count."""
    return not _failed(loads) and (min_ratio is None or _reached(loads, min_ratio))


def _reached(loads: Sequence[Load], bar: float) -> bool:
    return all(load.ratio >= bar for load in loads if load.server == OFF)


def _against_bar(loads: Sequence[Load], bar: float) -> str:
    spelled = ", ".join(f"{load.ratio:.2f} at {load.connections}" for load in loads if load.server == OFF)
    return f"Guarding off / bare passthrough: {spelled} connections ({'reaches' if _reached(loads, bar) else 'misses'} {bar:g})."


def _failed(loads: Sequence[Load]) -> list[str]:
    return [f"{load.failures} requests to `{load.server}` failed at {load.connections} connections." for load in loads if load.failures]


def _deliver(report: Report, out: Path | None, *, as_json: bool) -> None:
    show(report, as_json=as_json)
    for path in write(report, out) if out else ():
        click.echo(f"{path} written", err=True)
