"""What callers get: single verdicts and requests a second against transformers, streams, many policies, cold ones, reloads."""

import copy
import math
import statistics
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from gpu.bench import GIB, ONE, ZERO, Bench, Table, quantile
from gpu.passes import floor

from guardrail.engine.cope.cuda.runner import CudaRunner, Pending
from guardrail.engine.cope.kv import KVSpan
from guardrail.engine.cope.messages import Prefix
from guardrail.engine.cope.prefixes import PrefixStore
from guardrail.engine.cope.rows import Row, plan
from guardrail.engine.cope.runner import execute

BUDGET = 1024  # new tokens of one pass, as the engine is set by default


def serving(bench: Bench) -> list[Table]:
    """Policies by contents: ours one at a time and packed, transformers' `generate`, and its cache copied for each request."""
    runner = bench.live()
    columns = ("policy", "content", "p50 ms", "p99 ms", "requests/s", "of ceiling", "generate ms", "cached ms", "x generate", "x cached")
    note = (
        "generate: transformers, eager attention, the whole prompt; cached: its DynamicCache copied for each request; ceiling: packed floor"
    )
    table = Table("Single verdicts and throughput", columns, note=note)
    for length in bench.sizes.policies:
        ids = bench.tokens(length)
        span = bench.resident(runner, ids)
        kept = _cache(bench, ids)
        for content in bench.sizes.contents:
            singles = bench.wall(lambda s=span, c=content: execute(runner, [bench.question(s, c)]), bench.sizes.singles)
            each = content + bench.sizes.question
            count = max(1, min(BUDGET, runner.most_tokens) // each)
            rate = _rate(bench, runner, [[bench.question(span, content) for _ in range(count)] for _ in range(4)])
            ceiling = count / floor(bench, count * each, length) * 1e3
            naive = _naive(bench, ids, content) if bench.left > 120 or not bench.on_gpu else None
            cached = _cached(bench, kept, ids, content) if kept is not None and bench.left > 120 else None
            p50 = statistics.median(singles)
            ratios = tuple(None if other is None else other / p50 for other in (naive, cached))
            table.rows.append((length, content, p50, quantile(singles, 0.99), rate, rate / ceiling, naive, cached, *ratios))
        span.drop()
        del kept
    return [table]


def _rate(bench: Bench, runner: CudaRunner, passes: list[list[Row]]) -> float:
    """Requests a second with one pass laid out while the one before runs."""
    flying: deque[tuple[Pending, int]] = deque()
    runner.forward(plan(passes[0]))
    done, began, turn = 0, time.perf_counter(), 0
    while turn < len(passes) or time.perf_counter() - began < bench.sizes.seconds:
        rows = passes[turn % len(passes)]
        flying.append((runner.submit(plan(rows)), len(rows)))
        turn += 1
        if len(flying) > 1:
            pending, count = flying.popleft()
            pending.result()
            done += count
    while flying:
        pending, count = flying.popleft()
        pending.result()
        done += count
    return done / (time.perf_counter() - began)


def _cache(bench: Bench, ids: np.ndarray) -> Any:
    from transformers import DynamicCache

    try:
        kept = DynamicCache(config=bench.model.config)
        with torch.inference_mode():
            bench.model(input_ids=_row(bench, ids), past_key_values=kept, use_cache=True, logits_to_keep=1)
    except Exception as why:
        print("no cache:", repr(why)[:200])
        return None
    return kept


def _naive(bench: Bench, ids: np.ndarray, content: int) -> float:
    """Milliseconds of `generate` over the whole prompt, median of three."""
    prompts = [_row(bench, np.concatenate([ids, bench.tokens(content + bench.sizes.question)])) for _ in range(2)]
    settings = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True, "pad_token_id": 0}

    def run() -> float:
        with torch.inference_mode():
            found = bench.model.generate(prompts[0], attention_mask=torch.ones_like(prompts[0]), **settings)
        return _score(found.logits[0][0])

    return statistics.median(bench.wall(run, 3 if bench.on_gpu else 1))


def _cached(bench: Bench, kept: Any, ids: np.ndarray, content: int) -> float | None:
    more = _row(bench, bench.tokens(content + bench.sizes.question))
    places = torch.arange(len(ids), len(ids) + more.shape[1], device=bench.device)[None]

    def run() -> float:
        with torch.inference_mode():
            mine = copy.deepcopy(kept)
            return _score(bench.model(input_ids=more, position_ids=places, past_key_values=mine, logits_to_keep=1).logits[0, -1])

    try:
        return statistics.median(bench.wall(run, 3 if bench.on_gpu else 1))
    except Exception as why:
        print("cached:", repr(why)[:200])
        return None


def _score(logits: torch.Tensor) -> float:
    return float(torch.sigmoid(logits[ONE].float() - logits[ZERO].float()))


def _row(bench: Bench, ids: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(ids.astype(np.int64)).to(bench.device)[None]


def streams(bench: Bench) -> list[Table]:
    """Growing answers, all due at once: new tokens stay, the question behind them is forgotten."""
    runner, sizes = bench.live(), bench.sizes
    policy = bench.resident(runner, sizes.resident)
    table = Table(
        f"Streams: {sizes.step} new tokens and a question of {sizes.question}, policy {sizes.resident}, {sizes.grown} grown already",
        ("streams", "all of them ms", "ms a check", "wanted", "one by one ms a check"),
    )
    grown: list[KVSpan] = []
    for count in sizes.streams:
        while len(grown) < count:
            more = [
                KVSpan(runner.pool, first=policy.length) for _ in range(min(count - len(grown), max(1, runner.most_tokens // sizes.grown)))
            ]
            execute(runner, [Row(bench.tokens(sizes.grown), (policy,), span, sizes.grown, read=False) for span in more])
            grown.extend(more)
        many = bench.wall(partial(_step, bench, runner, policy, grown[:count]), 4 if bench.on_gpu else 1)
        one = bench.wall(partial(_step, bench, runner, policy, grown[:1]), 4 if bench.on_gpu else 1)
        packed = statistics.median(many)
        table.rows.append((count, packed, packed / count, 0.8 if count == 32 else None, statistics.median(one)))
    for span in (*grown, policy):
        span.drop()
    return [table]


def _step(bench: Bench, runner: CudaRunner, policy: KVSpan, grown: list[KVSpan]) -> None:
    sizes = bench.sizes
    each = sizes.step + sizes.question
    rows = [Row(bench.tokens(each), (policy, span), span, sizes.step) for span in grown]
    for start in range(0, len(rows), max(1, runner.most_tokens // each)):
        execute(runner, rows[start : start + max(1, runner.most_tokens // each)])


def many_policies(bench: Bench) -> list[Table]:
    """A single check stays as fast however many policies are resident, and rows of eight of them pack."""
    runner, sizes = bench.live(), bench.sizes
    table = Table(
        f"Policies of {sizes.many_length} resident, content 128",
        ("resident", "GiB", "p50 ms", "p99 ms", "8 rows of 8 policies ms", "filled at tokens/s"),
    )
    spans: list[KVSpan] = []
    content = 128 if bench.on_gpu else 3
    for count in sizes.many:
        new = count - len(spans)
        began = time.perf_counter()
        spans += [bench.resident(runner, sizes.many_length) for _ in range(new)]
        bench.sync()
        rate = new * sizes.many_length / (time.perf_counter() - began)
        order = iter(_rounds(spans))
        singles = bench.wall(lambda it=order: execute(runner, [bench.question(next(it), content)]), sizes.singles)
        picked = [spans[place % len(spans)] for place in range(8 if bench.on_gpu else 2)]
        mixed = bench.wall(lambda p=picked: execute(runner, [bench.question(span, content) for span in p]), 8 if bench.on_gpu else 1)
        used = runner.pool.used_pages * runner.pool.page_bytes / GIB
        table.rows.append((count, used, statistics.median(singles), quantile(singles, 0.99), statistics.median(mixed), rate))
    for span in spans:
        span.drop()
    return [table]


def _rounds(spans: list[KVSpan]) -> Iterator[KVSpan]:
    while True:
        yield from spans


def cold(bench: Bench) -> list[Table]:
    """A policy is filled in portions beside live checks: what the checks lose, and how long the policy takes."""
    runner, sizes = bench.live(), bench.sizes
    live = bench.resident(runner, sizes.resident)
    table = Table(
        f"A check (policy {sizes.resident}, content 128) beside portions of a cold policy of {sizes.resident}",
        ("portion", "check p50 ms", "check p99 ms", "policy ready after ms"),
    )
    content = 128 if bench.on_gpu else 3
    for portion in sizes.chunks:
        times: list[float] = []
        began = time.perf_counter()
        for _ in range(3 if bench.on_gpu else 1):
            ids, span = bench.tokens(sizes.resident), KVSpan(runner.pool)
            for start in range(0, len(ids), portion or math.ceil(len(ids) / (8 if bench.on_gpu else 1))):
                part = ids[start : start + portion]
                filling = [Row(part, (span,) if span.length else (), span, len(part), read=False)] if portion else []
                asked = time.perf_counter()
                execute(runner, [bench.question(live, content), *filling])
                times.append(1e3 * (time.perf_counter() - asked))
            span.drop()
        ready = (time.perf_counter() - began) / (3 if bench.on_gpu else 1) * 1e3 if portion else None
        table.rows.append((portion, statistics.median(times), quantile(times, 0.99), ready))
    live.drop()
    alone = Table("A cold policy with nothing beside it", ("tokens", "ms", "floor"))
    for length in sizes.policies:
        found = []
        for _ in range(2):
            began = time.perf_counter()
            span = bench.resident(runner, length)
            bench.sync()
            found.append(1e3 * (time.perf_counter() - began))
            span.drop()
        alone.rows.append((length, min(found), floor(bench, length, 0)))
    return [table, alone]


def reload(bench: Bench) -> list[Table]:
    """Out to host memory and back, against computing it again."""
    runner = bench.live()
    store = PrefixStore(runner.pool, host_bytes=2 * GIB if bench.on_gpu else 1 << 22)
    table = Table(
        "A policy back from host memory", ("tokens", "MB", "computed ms", "out ms", "back ms", "back GB/s", "x faster than computing")
    )
    for length in (300, 1000, 2000, 4000) if bench.on_gpu else (10,):
        key = f"policy-{length}"
        store.register(Prefix(key, bench.tokens(length)))
        began = time.perf_counter()
        filling = store.fill(key)
        while (row := filling.row(min(512, runner.most_tokens))) is not None:
            execute(runner, [row])
            filling.settle()
        bench.sync()
        computed = 1e3 * (time.perf_counter() - began)
        size = filling.span.nbytes
        out, back = [], []
        for _ in range(3 if bench.on_gpu else 1):
            bench.sync()
            began = time.perf_counter()
            store.make_room(runner.pool.free_pages + 1, tenant="*")
            bench.sync()
            out.append(1e3 * (time.perf_counter() - began))
            began = time.perf_counter()
            again = store.fill(key)
            bench.sync()
            back.append(1e3 * (time.perf_counter() - began))
            assert again.done
        store.make_room(runner.pool.pages, tenant="*")
        fastest = min(back)
        table.rows.append((length, size / 1e6, computed, min(out), fastest, size / fastest / 1e6, computed / fastest))
    return [table]


def fp8(bench: Bench) -> list[Table]:
    """The whole runner over e4m3 weights: passes, and how far its answers move."""
    from gpu.correct import _asked, _p, _probes
    from gpu.passes import laid, replay

    from guardrail.engine.cope.packed_weights import PackedWeights, fused_weights
    from guardrail.engine.cope.quantise import Fp8Projection

    bench.drop()
    quantised = {name: Fp8Projection.of(weight) for name, weight in fused_weights(bench.model)}
    weights = PackedWeights.from_gemma2(bench.model, quantised)
    room = bench.sizes.resident + 3000 if bench.on_gpu else 1000
    plain, narrow = bench.make(bench.pool(room)), bench.make(bench.pool(room), weights)
    table = Table(f"Passes over e4m3 weights, policy of {bench.sizes.resident}", ("tokens", "bf16 ms", "e4m3 ms", "gain"))
    for tokens in bench.sizes.passes:
        times = []
        for runner in (plain, narrow):
            span = bench.resident(runner, bench.sizes.resident)
            planned = laid(bench, span, tokens)
            runner.forward(planned)
            variant = runner.variant(planned, int(planned.positions.max()))
            times.append(statistics.median(bench.timed(replay(runner, variant))))
            span.drop()
        table.rows.append((tokens, *times, times[0] / times[1]))
    rows = _probes(bench)
    told, wanted = _asked(bench, narrow, rows), _asked(bench, plain, rows)
    moved = [abs(_p(left) - _p(right)) for left, right in zip(told, wanted, strict=True)]
    flips = sum((_p(left) > 0.5) != (_p(right) > 0.5) for left, right in zip(told, wanted, strict=True))
    drift = Table("Drift of e4m3 weights, same questions", ("questions", "mean dp", "largest dp", "verdict flips"))
    drift.rows.append((len(moved), sum(moved) / len(moved), max(moved), flips))
    return [table, drift]
