"""How long a pass takes, against what the machine could do at best; where the time goes; which cuts of attention are fastest."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from gpu.bench import Bench, Table

from guardrail.engine.cope.cuda.buckets import Bucket, Views, write
from guardrail.engine.cope.cuda.launch import Attention, Finish, Scratch, add_norm, geglu, read_answers, rotate_and_keep
from guardrail.engine.cope.cuda.runner import CudaRunner, Tail, Variant
from guardrail.engine.cope.cuda.worklist import Tiling, work_list
from guardrail.engine.cope.kv import KVSpan
from guardrail.engine.cope.rows import Plan, Row, plan

PREDICTED = {16: 6.6, 64: 6.8, 128: 7.2, 256: 8.5, 512: 14.5, 1024: 27.5, 2048: 54.0}  # ms on an H100, written down before any run
WANTED = {128: 7.5, 1024: 28.0}


def machine(bench: Bench) -> list[Table]:
    """The two ceilings: a large copy, a large product on random data. All floors of this run use them."""
    source = torch.randn(bench.sizes.copied // bench.dtype.itemsize, device=bench.device, dtype=bench.dtype)
    target = torch.empty_like(source)
    copied = statistics.median(bench.timed(lambda: target.copy_(source)))
    side = bench.sizes.square
    left, right = (torch.randn(side, side, device=bench.device, dtype=bench.dtype) for _ in range(2))
    product = statistics.median(bench.timed(lambda: left @ right))
    bench.bytes_per_s, bench.flops_per_s = 2 * source.nbytes / copied * 1e3, 2 * side**3 / product * 1e3
    name = torch.cuda.get_device_name() if bench.on_gpu else "CPU, interpreted: times mean nothing"
    bench.found["machine"] = {"device": name}
    free = torch.cuda.mem_get_info()[0] / 2**30 if bench.on_gpu else 0.0
    rows = [("copy, TB/s", bench.bytes_per_s / 1e12), ("product, TFLOP/s", bench.flops_per_s / 1e12), ("free memory, GiB", free)]
    return [Table(f"{name}, torch {torch.__version__}", ("ceiling", "measured"), rows)]


def floor(bench: Bench, tokens: int, resident: int) -> float:
    """Milliseconds: the larger of arithmetic at the product's rate and bytes at the copy's; weights and one policy are read once."""
    config = bench.model.config
    heads = 2 * config.num_attention_heads + 2 * config.num_key_value_heads
    body = config.num_hidden_layers * config.hidden_size * (heads * config.head_dim + 3 * config.intermediate_size)
    seen = tokens * (resident + 0.5 * min(tokens, 137))
    attention = 4.0 * config.num_attention_heads * config.head_dim * config.num_hidden_layers * seen
    kept = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * resident
    return 1e3 * max((2.0 * body * tokens + attention) / bench.flops_per_s, (body + kept) * bench.dtype.itemsize / bench.bytes_per_s)


def laid(bench: Bench, span: KVSpan, tokens: int) -> Plan:
    """Checks of 128 tokens of content behind one policy, to the token."""
    each = 128 + bench.sizes.question
    lengths = [each] * (tokens // each) + ([tokens % each] if tokens % each else [])
    return plan([Row(bench.tokens(length), (span,)) for length in lengths])


def passes(bench: Bench) -> list[Table]:
    """Each bucket as a graph, launched one by one, without the answer head, and as the caller sees it."""
    runner = bench.live()
    span = bench.resident(runner, bench.sizes.resident)
    columns = ("tokens", "graph ms", "floor", "of floor", "predicted", "wanted", "no head", "launched singly", "called", "laid out")
    table = Table(
        f"One pass, policy of {bench.sizes.resident} resident", columns, note="ms; medians; `called` includes laying out and reading"
    )
    try:
        for tokens in bench.sizes.passes:
            planned = laid(bench, span, tokens)
            runner.forward(planned)
            variant = runner.variant(planned, int(planned.positions.max()))
            silent = dataclasses.replace(variant, tail=Tail.NOTHING)
            graph = statistics.median(bench.timed(replay(runner, variant)))
            without = statistics.median(bench.timed(replay(runner, silent)))
            singly = statistics.median(bench.timed(partial(_compute, runner, variant), max(1, bench.sizes.repeats // 5)))
            called = statistics.median(bench.wall(lambda planned=planned: runner.forward(planned), bench.sizes.repeats))
            host = runner._staging._host[0].numpy()
            began = time.perf_counter()
            write(planned, variant.bucket, None, host)
            laid_out = 1e3 * (time.perf_counter() - began)
            least = floor(bench, tokens, bench.sizes.resident)
            row = (tokens, graph, least, graph / least, PREDICTED.get(tokens), WANTED.get(tokens), without, singly, called, laid_out)
            table.rows.append(row)
    finally:
        span.drop()
    return [table, *([_windowed(bench, runner)] if bench.on_gpu else [])]


def replay(runner: CudaRunner, variant: Variant) -> Callable[[], object]:
    """Run what was staged once more."""
    if runner._memory is None:
        return partial(_compute, runner, variant)
    if variant not in runner._graphs:
        with torch.inference_mode():
            runner._capture(variant)
    return runner._graphs[variant][0].replay


@torch.inference_mode()
def _compute(runner: CudaRunner, variant: Variant) -> None:
    runner.compute(variant)


def _windowed(bench: Bench, runner: CudaRunner) -> Table:
    """Beyond the window: half of the layers see less."""
    table = Table("One pass of 128 tokens behind longer policies", ("resident", "graph ms", "window active"))
    for resident in (300, 4000, 7900):
        span = bench.resident(runner, resident)
        planned = laid(bench, span, 128)
        runner.forward(planned)
        variant = runner.variant(planned, int(planned.positions.max()))
        table.rows.append((resident, statistics.median(bench.timed(replay(runner, variant))), variant.windowed))
        span.drop()
    return table


@torch.inference_mode()
def parts(bench: Bench) -> list[Table]:
    """Each kind of launch by itself, over all layers in turn so that no weight is found in a cache."""
    tables = []
    for tokens in (128, 1024) if bench.on_gpu else (16,):
        runner = bench.live()
        span = bench.resident(runner, bench.sizes.resident)
        planned = laid(bench, span, tokens)
        runner.forward(planned)
        bucket = runner.variant(planned, int(planned.positions.max())).bucket
        columns = ("part", "ms a pass", "share", "floor")
        table = Table(f"Where {tokens} tokens spend their time", columns, note="each part captured alone, over all layers")
        found = [(name, bench.graphed(run, 10 if bench.on_gpu else 1), least) for name, run, least in _pieces(bench, runner, bucket)]
        total = sum(milliseconds for _, milliseconds, _ in found)
        table.rows.extend((name, milliseconds, milliseconds / total, least) for name, milliseconds, least in found)
        table.rows.append(("sum", total, 1.0, floor(bench, tokens, bench.sizes.resident)))
        tables.append(table)
        span.drop()
    return tables


def _pieces(bench: Bench, runner: CudaRunner, bucket: Bucket) -> list[tuple[str, Callable[[], None], float | None]]:
    weights, config, tokens = bench.weights, bench.model.config, bucket.tokens
    views, sizes = Views.of(runner._staging.table, bucket), runner._sizes
    inputs = {
        width: torch.randn(tokens, width, device=bench.device).to(bench.dtype)
        for width in {config.hidden_size, config.intermediate_size, config.num_attention_heads * config.head_dim}
    }
    wide = torch.randn(tokens, (sizes.shared + 2) * sizes.heads * sizes.size, device=bench.device).to(bench.dtype)
    gate_up = torch.randn(tokens, 2 * config.intermediate_size, device=bench.device).to(bench.dtype)
    hidden, delta = (torch.randn(tokens, config.hidden_size, device=bench.device).to(bench.dtype) for _ in range(2))
    attention = Attention(bucket.shape, sizes, runner._scratch)
    layers = list(enumerate(weights.layers))

    def product(name: str) -> Callable[[], None]:
        return lambda: [getattr(layer, name)(inputs[getattr(layer, name).weight.shape[1]]) for _, layer in layers] and None

    def attend() -> None:
        for number, layer in layers:
            scoring = dataclasses.replace(layer.scoring, window=None)
            attention(wide, runner.pool.kv[number], (views.laid, views.everywhere), scoring, Finish())

    def norms() -> None:
        for _, layer in layers:
            add_norm(hidden, delta, (layer.after_attention, layer.before_mlp, weights.eps))
            add_norm(hidden, delta, (layer.after_mlp, layer.before_attention, weights.eps))

    def least(name: str) -> float:
        numbers = sum(getattr(layer, name).weight.numel() for _, layer in layers)
        return 1e3 * max(2.0 * numbers * tokens / bench.flops_per_s, numbers * bench.dtype.itemsize / bench.bytes_per_s)

    return [
        *((f"product {name}", product(name), least(name)) for name in ("qkv", "o", "gate_up", "down")),
        ("attention and merge", attend, None),
        ("norms and residuals", norms, None),
        ("gate", lambda: [geglu(gate_up) for _ in layers] and None, None),
        (
            "rotation",
            lambda: [rotate_and_keep(wide, runner.pool.kv[n], views.laid, runner._angles, sizes) for n, _ in layers] and None,
            None,
        ),
        ("answer head", lambda: read_answers(hidden[: bucket.reads], bench.head.rows, bench.head.vocabulary, 30.0) is None, None),
        ("embedding", lambda: F.embedding(views.laid.ids, weights.embedding) * weights.embed_scale is None, None),
    ]


@torch.inference_mode()
def cuts(bench: Bench) -> list[Table]:
    """Attention's cut: block and tile, warps and stages, splits. What `worklist.tiling` chooses stands first."""
    tables = []
    for tokens in (128, 1024) if bench.on_gpu else (16,):
        runner = bench.live()
        span = bench.resident(runner, bench.sizes.resident)
        planned = laid(bench, span, tokens)
        runner.forward(planned)
        bucket = runner.variant(planned, int(planned.positions.max())).bucket
        table = Table(f"Cuts of attention, {tokens} tokens", ("block", "tile", "splits", "warps", "stages", "ms a pass"))
        for shape in (bucket.shape, *(_CUTS[tokens] if bench.on_gpu else ())):
            if bench.left < 60:
                break
            cut = dataclasses.replace(bucket, shape=shape)
            table.rows.append((shape.block, shape.tile, shape.splits, shape.warps, shape.stages, _cut(bench, runner, planned, cut)))
        tables.append(table)
        span.drop()
    return tables


_CUTS = {
    128: (Tiling(32, 64, 4, stages=3), Tiling(64, 32, 8, stages=3), Tiling(32, 32, 4, warps=4, stages=3), Tiling(32, 64, 8)),
    1024: (Tiling(64, 32, 1, stages=4), Tiling(64, 64, 2), Tiling(64, 32, 2, stages=3), Tiling(32, 64, 1)),
}


def _cut(bench: Bench, runner: CudaRunner, planned: Plan, cut: Bucket) -> float | None:
    views = Views.of(runner._staging.table, runner.variant(planned, 0).bucket)
    listed = work_list(planned, cut.shape, blocks=cut.blocks, window=None)
    work = dataclasses.replace(views.laid, entries=torch.from_numpy(listed.entries).to(bench.device))
    programs = torch.from_numpy(listed.programs).to(bench.device)
    attention = Attention(cut.shape, runner._sizes, Scratch.of(cut.programs * cut.shape.block, runner._sizes, bench.device))
    wide = torch.randn(cut.tokens, bench.weights.layers[0].qkv.weight.shape[0], device=bench.device).to(bench.dtype)

    def run() -> None:
        for number, layer in enumerate(bench.weights.layers):
            attention(wide, runner.pool.kv[number], (work, programs), dataclasses.replace(layer.scoring, window=None), Finish())

    try:
        return bench.graphed(run, 10 if bench.on_gpu else 1)
    except Exception as why:  # a cut that this compiler cannot build is a result
        print("cut", cut.shape, repr(why)[:200])
        return None


def products(bench: Bench) -> list[Table]:
    """e4m3 products of a layer's four shapes, scaled by row and by tensor, against bf16: microseconds and the gain."""
    from guardrail.engine.cope.quantise import fp8_rows

    if not bench.on_gpu:
        return [Table("e4m3 products", ("skipped: no GPU",))]
    table = Table(
        "A layer's products, bf16 against e4m3", ("weight", "tokens", "bf16 us", "rows us", "rows, fast us", "tensor, fast us", "gain")
    )
    layer = bench.weights.layers[0]
    for name in ("qkv", "o", "gate_up", "down"):
        weight = getattr(layer, name).weight
        copies = max(2, int(3e8 // weight.nbytes))  # more than a cache holds
        weights = [weight.clone() for _ in range(copies)]
        narrow = [fp8_rows(each) for each in weights]
        for tokens in bench.sizes.products:
            inputs = torch.randn(tokens, weight.shape[1], device=bench.device).to(bench.dtype)
            small, scale = fp8_rows(inputs)
            plain = bench.graphed(lambda w=weights, x=inputs: [F.linear(x, each) for each in w]) / copies
            found = [_scaled(bench, (small, scale), narrow, by_row=by_row, fast=fast) for by_row, fast in _SCALINGS]
            best = min((value for value in found[:2] if value), default=None)
            micro = [value and 1e3 * value for value in (plain, *found)]
            table.rows.append((f"{name} {tuple(weight.shape)}", tokens, *micro, best and plain / best))
    return [table]


_SCALINGS = ((True, False), (True, True), (False, True))  # by row or by tensor; fast accumulation or not


def _scaled(bench: Bench, inputs: tuple[torch.Tensor, torch.Tensor], weights: list[Any], *, by_row: bool, fast: bool) -> float | None:
    values, scale = inputs
    one = torch.ones((), device=bench.device)

    def run() -> None:
        for each, row in weights:
            left, right = (scale[:, None], row[None]) if by_row else (one, one)
            torch._scaled_mm(values, each.t(), scale_a=left, scale_b=right, out_dtype=torch.bfloat16, use_fast_accum=fast)

    try:
        return bench.graphed(run) / len(weights)
    except Exception as why:  # what a build does not offer is a result
        print("e4m3 product", by_row, fast, repr(why)[:200])
        return None
