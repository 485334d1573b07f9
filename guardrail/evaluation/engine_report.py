"""The results of the engine's bench as a JSON object, as Markdown tables and as a picture."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from guardrail.evaluation.engine_bench import Results
from guardrail.evaluation.engine_plot import Panel, Series, bars, lines, picture
from guardrail.evaluation.engine_streams import Growth, Streams

# (policy, content) tokens -> times as fast as naive, on the small shape and a quiet CPU.
AIMS = {
    (1500, 100): {"ours, batch 1": 25.0, "ours, batch 32": 35.0, "ours, batch 32, 4 policies": 33.0},
    (4000, 64): {"ours, batch 1": 110.0, "ours, batch 32": 158.0},
}

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]  # title, headings, cells


def document(results: Results, machine: Mapping[str, object]) -> dict[str, Any]:
    """Everything, as JSON can hold it: what is not a number is null."""
    found = asdict(results)
    if results.streams:
        found["streams"] |= {"over_rechecked": results.streams.over_rechecked, "over_naive": results.streams.over_naive}
    plain: dict[str, Any] = _plain({"kind": "engine", "machine": dict(machine), **found})
    return plain


def tables(results: Results) -> list[Table]:
    """Title, headings and cells of each part that was measured."""
    return [table for table in (_judged(results), _resident(results), _streams(results.streams), _ceilings(results)) if table[2]]


def sentences(results: Results) -> Iterator[str]:
    """What the tables do not hold: the model, memory, streams in numbers, notes."""
    settings, memory, lengths = results.settings, results.memory, results.settings.lengths
    yield (
        f"Random Gemma-2 weights, shape {settings.shape}: {results.shape.parameters / 1e6:,.0f} million parameters, {results.dtype}, "
        f"{settings.device}, threads: {settings.threads}, runner: {results.runner}. Policies of {lengths.policy} tokens, "
        f"contents of {lengths.content} and a header of {lengths.header}; medians over {settings.rounds} rounds in which all take turns."
    )
    device = "" if memory.peak_device is None else f", device {_bytes(memory.peak_device)}"
    yield (
        f"Memory: weights {_bytes(memory.weights)}, keys and values {_bytes(memory.kv_token)} a token and {_bytes(memory.kv_policy)} a "
        f"policy, pool {_bytes(memory.pool)}; at most in use: process {_bytes(memory.peak_process)}{device}."
    )
    if streams := results.streams:
        at = streams.incremental.at
        yield (
            f"An answer of {at[-1]} tokens in {len(at)} checks: {streams.over_rechecked:.1f} times as fast as running its content again, "
            f"{streams.over_naive:.1f} times as fast as naive; {streams.tokens_run / streams.tokens_streamed:.2f} tokens run for each one "
            f"streamed; answers within {streams.max_dp:.1e} of the re-check's and {streams.max_dp_naive:.1e} of the naive ones. Several "
            f"streams, each {at[0]} tokens further: {streams.packed_ms:.1f} ms a check in one go, {streams.alone_ms:.1f} ms one by one."
        )
    yield from _aims(results)
    yield from results.notes


def _aims(results: Results) -> Iterator[str]:
    """What the measurement was built to reach, where it is that measurement."""
    settings = results.settings
    if (settings.shape, settings.device) != ("small", "cpu"):
        return
    aims = AIMS.get((settings.lengths.policy, settings.lengths.content), {})
    found = [(line.name, line.ratio, aims[line.name]) for line in results.lines if line.name in aims]
    if results.streams and settings.growth == Growth():
        found += [
            ("a growing answer over re-checks", results.streams.over_rechecked, 4.0),
            ("over naive", results.streams.over_naive, 50.0),
        ]
    if found:
        spelled = (f"{name} {ratio:.1f} ({'reaches' if ratio > aim else 'misses'} {aim:g})" for name, ratio, aim in found)
        yield f"Times as fast, and aims: {'; '.join(spelled)}."


def markdown(results: Results, machine: str) -> str:
    """The tables and the sentences under them; `machine` is the last."""
    parts = ["# The engine, side by side"]
    for title, headings, cells in tables(results):
        rows = [headings, ["---", *["--:"] * (len(headings) - 1)], *cells]
        parts += [f"## {title}", "\n".join(f"| {' | '.join(row)} |" for row in rows)]
    return "\n\n".join([*parts, *sentences(results), machine])


def plot(results: Results) -> str:
    """An SVG."""
    panels: list[Panel] = []
    if results.lines:
        panels.append(bars("Times as fast as naive", "x", [(line.name, line.ratio) for line in results.lines]))
    if streams := results.streams:
        curves = [streams.incremental, streams.rechecked, streams.naive]
        series = [Series(curve.name, tuple(zip(curve.at, curve.ms, strict=True))) for curve in curves]
        panels.append(lines("A check of a growing answer", ("tokens streamed", "ms"), series))
    if results.residents:
        alone = Series("one request", tuple((one.policies, one.ms) for one in results.residents))
        packed = Series("a request of 32 packed", tuple((one.policies, one.packed_ms) for one in results.residents))
        panels.append(lines("With many policies resident", ("policies", "ms"), [alone, packed]))
    return picture(panels)


def _judged(results: Results) -> Table:
    headings = ["way", "ms", "least to most", "predicted", "x naive", "tokens/s", "of roofline", "max |dp|", "compared"]
    cells = [
        [
            line.name,
            _number(line.ms),
            f"{_number(line.least_ms)} to {_number(line.most_ms)}",
            _number(line.predicted_ms),
            _number(line.ratio),
            _number(line.tokens_per_s),
            f"{line.roofline:.0%}",
            f"{line.max_dp:.1e}",
            str(line.compared),
        ]
        for line in results.lines
    ]
    return "Milliseconds a request: one content under one policy", headings, cells


def _resident(results: Results) -> Table:
    headings = ["policies resident", "their KV", "ms", "least to most", "ms, 32 packed", "max |dp|"]
    cells = [
        [
            str(one.policies),
            _bytes(one.kv_bytes),
            _number(one.ms),
            f"{_number(one.least_ms)} to {_number(one.most_ms)}",
            _number(one.packed_ms),
            f"{one.max_dp:.1e}",
        ]
        for one in results.residents
    ]
    return "Milliseconds a request with many policies resident", headings, cells


def _streams(streams: Streams | None) -> Table:
    headings = ["way", "checks measured", "ms a check, mean", "first", "last", "predicted, last"]
    curves = [streams.incremental, streams.rechecked, streams.naive] if streams else []
    cells = [
        [curve.name, str(len(curve.at)), *(_number(ms) for ms in (curve.mean_ms, curve.ms[0], curve.ms[-1], curve.predicted_ms[-1]))]
        for curve in curves
    ]
    return "Checking a growing answer", headings, cells


def _ceilings(results: Results) -> Table:
    found = results.ceilings
    largest = max(found.plain)

    def rate(count: int, seconds: float) -> str:
        return f"{2e-9 * results.shape.body_weights * count / seconds:,.0f} GFLOP/s"

    cells = [[f"all matrices, {count} tokens", rate(count, took), f"{took * 1000:.2f} ms"] for count, took in found.products.items()]
    cells += [
        [f"the same, {largest} tokens, as torch multiplies", rate(largest, found.plain[largest]), ""],
        ["copying", f"{found.bytes_per_s / 1e9:,.1f} GB/s", ""],
        ["scores, capped and exponentiated", f"{found.scores_per_s / 1e9:,.2f} a ns", ""],
        ["scores, as transformers writes them out", f"{found.eager_scores_per_s / 1e9:,.2f} a ns", ""],
    ]
    return "Ceilings of this machine, measured in this run", ["what", "rate", "time"], cells


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _bytes(size: int | None) -> str:
    if size is None:
        return "unknown"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
