"""Right before fast: kernels against float64, the runner against the reference and against fp32, bit-equal repeats."""

import dataclasses
import math

import numpy as np
import torch
import torch.nn.functional as F
from gpu.bench import ONE, ZERO, Bench, Table

from guardrail.engine.cope.attention_cpu import Scoring
from guardrail.engine.cope.cuda.check import BANDS, Band, agrees
from guardrail.engine.cope.cuda.launch import (
    Attention,
    Dimensions,
    Fed,
    Finish,
    Laid,
    Scratch,
    add_norm,
    geglu,
    read_answers,
    rotate_and_keep,
)
from guardrail.engine.cope.cuda.worklist import Tiling, row_starts, work_list
from guardrail.engine.cope.head import AnswerHead
from guardrail.engine.cope.kv import KVPool, KVShape, KVSpan
from guardrail.engine.cope.messages import Read
from guardrail.engine.cope.reference import ReferenceRunner
from guardrail.engine.cope.rows import Plan, Row, plan
from guardrail.engine.cope.runner import Runner, execute
from guardrail.evaluation.engine_models import random_gemma2

ALLOWED = {torch.bfloat16: 1e-2, torch.float32: 1e-4}


def kernels(bench: Bench) -> list[Table]:
    """Each kernel on fresh data in poisoned memory, both cuts of attention, against float64 of the same numbers."""
    table = Table("Kernels against float64", ("kernel", "type", "relative error", "allowed", "right"))
    torch.use_deterministic_algorithms(True, warn_only=True)  # memory that torch hands out uninitialised holds NaN
    try:
        for dtype in dict.fromkeys((bench.dtype, torch.float32)):
            for name, found, wanted in _elementwise(bench, dtype) + (_attention(bench, dtype) if dtype is bench.dtype else []):
                error = float((found.double() - wanted).norm() / wanted.norm())
                allowed = ALLOWED[dtype] if "e4m3" not in name else 0.05
                table.rows.append((name, str(dtype)[6:], error, allowed, bool(error <= allowed)))
    finally:
        torch.use_deterministic_algorithms(False)
    return [table]


def _elementwise(bench: Bench, dtype: torch.dtype) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    width, inner = bench.weights.embedding.shape[1], bench.model.config.intermediate_size
    hidden, delta = _random(bench, dtype, 7, width), _random(bench, dtype, 7, width)
    post, pre = (torch.rand(width, device=bench.device) + 0.5 for _ in range(2))
    wanted = hidden.double() + _rms(delta, post)
    out, fed = add_norm(hidden.clone(), delta, (post, pre, 1e-6))
    _, narrow = add_norm(hidden.clone(), delta, (post, pre, 1e-6), fp8=True)
    gate_up = _random(bench, dtype, 7, 2 * inner)
    gate, up = gate_up.double().chunk(2, dim=-1)
    states, words = _random(bench, dtype, 5, width), _random(bench, dtype, 1000, width) * (2 / math.sqrt(width))
    logits = 30 * torch.tanh(states.double() @ words.double().T / 30)
    answers = read_answers(states, words[:2].float().contiguous(), words, 30.0)
    return [
        ("residual", out, wanted),
        ("norm", fed.values, _rms(wanted, pre)),
        ("norm, e4m3", _whole(narrow), _rms(wanted, pre)),
        ("gate", geglu(gate_up).values, F.gelu(gate, approximate="tanh") * up),
        ("gate, e4m3", _whole(geglu(gate_up, fp8=True)), F.gelu(gate, approximate="tanh") * up),
        ("answers", answers, torch.cat([logits[:, :2], logits.logsumexp(-1, keepdim=True)], dim=1)),
    ]


def _attention(bench: Bench, dtype: torch.dtype) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Four rows behind a policy (one of them behind a stream too), one behind another policy, one behind nothing, and padding."""
    heads, size = bench.weights.kv_heads, bench.weights.head_dim
    sizes = Dimensions(heads, bench.weights.heads // heads, size, bench.weights.embedding.shape[1])
    pool = KVPool(KVShape(1, heads, size), budget_bytes=40 * 64 * 2 * heads * size * dtype.itemsize, dtype=dtype, device=bench.device)
    pool.release(pool.allocate(pool.pages)[1::2])
    pool.kv.fill_(torch.nan)
    first, second, stream = KVSpan(pool), KVSpan(pool), KVSpan(pool, first=400)
    for span, length in ((first, 400), (second, 70), (stream, 100)):
        span.reserve(length)
        span.append(np.zeros(length, np.int32))
        pool.kv[:, :, :, torch.from_numpy(span.slots(0, length)).to(bench.device)] = _random(bench, dtype, 1, 2, heads, length, size)
    lengths = {(first,): (1, 60, 9), (first, stream): (43,), (second,): (25,), (): (15,)}
    planned = plan([Row(np.zeros(count, np.int32), chain) for chain, each in lengths.items() for count in each])
    padded = -(-planned.tokens // 64) * 64
    raw = _random(bench, dtype, padded, (sizes.shared + 2) * heads * size)
    laid, angles, turned = _turned(bench, planned, raw, sizes)
    qkv = raw.clone()
    rotate_and_keep(qkv, pool.kv[0], laid, angles, sizes)
    found = [("rotation", qkv[: planned.tokens].double(), turned)]
    every = (Tiling(32, 64, 4), Tiling(64, 32, 1, stages=3), Tiling(64, 32, 2, stages=3))
    for shape in every if bench.on_gpu else every[:1]:
        for window in (None, 150) if bench.on_gpu else (150,):
            scoring = Scoring(1 / math.sqrt(size), 50.0, window)
            listed = work_list(planned, shape, blocks=padded // shape.block, window=window)
            work = dataclasses.replace(laid, entries=torch.from_numpy(listed.entries).to(bench.device))
            attend = Attention(shape, sizes, Scratch.of(padded * shape.splits, sizes, bench.device))
            fed = attend(qkv, pool.kv[0], (work, torch.from_numpy(listed.programs).to(bench.device)), scoring, Finish())
            wanted = _defined(planned, pool, qkv[: planned.tokens], sizes, scoring)
            found.append((f"attention {shape.block}x{shape.tile}/{shape.splits} window {window}", fed.values[: planned.tokens], wanted))
    return found


def _turned(bench: Bench, planned: Plan, raw: torch.Tensor, sizes: Dimensions) -> tuple[Laid, torch.Tensor, torch.Tensor]:
    padding = len(raw) - planned.tokens
    inverse = 10_000.0 ** (-torch.arange(0, sizes.size, 2) / sizes.size)
    table = torch.arange(1024)[:, None] * inverse
    nothing = torch.zeros(len(raw), dtype=torch.int32)
    columns = (
        nothing,
        F.pad(torch.from_numpy(planned.positions).int(), (0, padding)),
        F.pad(torch.from_numpy(row_starts(planned)), (0, padding), value=1 << 30),
        nothing - 1,
        nothing,
        nothing,
    )
    angle = (torch.from_numpy(planned.positions)[:, None] * inverse).double().to(bench.device)[:, None]
    shaped = raw[: planned.tokens].double().view(planned.tokens, -1, sizes.size)
    rotated = sizes.heads * (sizes.shared + 1)
    low, high = shaped[:, :rotated].chunk(2, dim=-1)
    halves = [low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin()]
    turned = torch.cat([torch.cat(halves, dim=-1), shaped[:, rotated:]], dim=1).view(planned.tokens, -1)
    laid = Laid(*(column.to(bench.device) for column in columns))
    return laid, torch.cat([table.cos(), table.sin()], dim=1).to(bench.device), turned


def _defined(planned: Plan, pool: KVPool, qkv: torch.Tensor, sizes: Dimensions, scoring: Scoring) -> torch.Tensor:
    """Attention by its definition, row by row, in float64."""
    heads, shared = sizes.heads, sizes.shared
    query, key, value = qkv.double().view(planned.tokens, -1, sizes.size).transpose(0, 1).split([heads * shared, heads, heads])
    out = torch.empty(planned.tokens, heads * shared, sizes.size, dtype=torch.float64, device=qkv.device)
    for number, row in enumerate(planned.rows):
        own = slice(*planned.starts[number : number + 2].tolist())
        slots = torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *(span.slots(0, span.length) for span in row.chain)])).to(
            qkv.device
        )
        keys, values = (
            torch.cat([kept.double()[:, slots], new[:, own]], dim=1) for kept, new in zip(pool.kv[0], (key, value), strict=True)
        )
        scores = query[:, own] @ keys.repeat_interleave(shared, 0).transpose(1, 2) * scoring.scale
        scores = scoring.softcap * torch.tanh(scores / scoring.softcap)
        apart = torch.from_numpy(planned.positions[own])[:, None] - torch.arange(keys.shape[1])
        scores.masked_fill_(((apart < 0) | (apart >= (scoring.window or 1 << 30))).to(qkv.device), -torch.inf)
        out[own] = (scores.softmax(-1) @ values.repeat_interleave(shared, 0)).transpose(0, 1)
    return out.reshape(planned.tokens, -1)


def agreement(bench: Bench) -> list[Table]:
    """The runner against the reference (transformers' own module) in the same type, graphs and all; and against itself."""
    window = bench.model.config.sliding_window if bench.on_gpu else None
    room = (window or 0) + 1200
    runner = bench.make(bench.pool(room) if bench.on_gpu else bench.pool())
    reference = ReferenceRunner(bench.model, bench.pool(room), bench.head)
    band = BANDS[bench.dtype]
    table = Table("The runner against the reference, same type", ("what", "largest dp", "largest dlogit", "band", "note"))
    if bench.on_gpu:
        found = agrees(runner, reference, vocabulary=bench.model.config.vocab_size, window=window, band=Band(1.0, 100.0))
        table.rows.append(("fixed questions", found.probability, found.logit, f"{band.probability}, {band.logit}", f"to {found.farthest}"))
    rows = _probes(bench)
    told, wanted = _asked(bench, runner, rows), _asked(bench, reference, rows)
    table.rows.append(("questions", *_apart(told, wanted), f"{band.probability}, {band.logit}", f"{len(told)} questions"))
    again = _asked(bench, runner, rows)
    same = all(left == right for left, right in zip(told, again, strict=True))
    table.rows.append(("the same questions again", *_apart(told, again), "0, 0", f"bit-equal: {same}"))
    together = execute(runner, _behind(bench, runner, rows[: max(1, runner.most_tokens // 200)]))
    table.rows.append(("alone against together", *_apart(told[: len(together)], together), "-", "another bucket, other matrix tiles"))
    return [table]


def truth(bench: Bench) -> list[Table]:
    """Both types of answer against fp32 of the same bf16 weights: what rounding costs, ours and transformers'."""
    if not bench.on_gpu:
        return [Table("Against fp32", ("skipped: fp32 is what runs here",))]
    bench.drop()
    exact = random_gemma2(bench.shape, dtype=torch.float32, device=bench.device)
    with torch.no_grad():
        for wide, narrow in zip(exact.parameters(), bench.model.parameters(), strict=True):
            wide.copy_(narrow)
        scale = exact.model.embed_tokens.embed_scale
        scale.copy_(scale.to(bench.dtype).to(scale.dtype))  # bf16 rounds it; an fp32 copy would be another model
    shape = KVShape.of(exact.config)
    pool = KVPool(shape, budget_bytes=3000 * shape.bytes_per_token(torch.float32), dtype=torch.float32, device=bench.device)
    rows = _probes(bench)
    wanted = _asked(bench, ReferenceRunner(exact, pool, AnswerHead.of(exact, ZERO, ONE)), rows)
    del exact, pool
    torch.cuda.empty_cache()
    told = {
        "ours": _asked(bench, bench.make(bench.pool(3000)), rows),
        "transformers' module": _asked(bench, ReferenceRunner(bench.model, bench.pool(3000), bench.head), rows),
    }
    table = Table("Against fp32 of the same weights", ("who", "largest dp", "largest dlogit", "mean dp", "verdict flips"))
    for who, reads in told.items():
        pairs = [(_p(left), _p(right)) for left, right in zip(reads, wanted, strict=True)]
        mean = sum(abs(left - right) for left, right in pairs) / len(pairs)
        table.rows.append((who, *_apart(reads, wanted), mean, sum((left > 0.5) != (right > 0.5) for left, right in pairs)))
    return [table]


def _probes(bench: Bench) -> list[tuple[np.ndarray, np.ndarray]]:
    """Policies and contents; the same for every runner."""
    dice = np.random.default_rng(5)
    lengths = (60, 300, 700) if bench.on_gpu else (10,)
    policies = [dice.integers(16, bench.model.config.vocab_size, length, dtype=np.int32) for length in lengths]
    most = 190 if bench.on_gpu else 8
    return [
        (policies[number % len(policies)], dice.integers(16, bench.model.config.vocab_size, dice.integers(4, most), dtype=np.int32))
        for number in range(bench.sizes.probes)
    ]


def _behind(bench: Bench, runner: Runner, rows: list[tuple[np.ndarray, np.ndarray]]) -> list[Row]:
    spans = {id(policy): bench.resident(runner, policy) for policy, _ in {id(policy): (policy, 0) for policy, _ in rows}.values()}
    return [Row(content, (spans[id(policy)],)) for policy, content in rows]


def _asked(bench: Bench, runner: Runner, rows: list[tuple[np.ndarray, np.ndarray]]) -> list[Read]:
    """One by one."""
    laid = _behind(bench, runner, rows)
    told = [execute(runner, [row])[0] for row in laid]
    for span in {id(row.chain[0]): row.chain[0] for row in laid}.values():
        span.drop()
    return told


def _apart(left: list[Read], right: list[Read]) -> tuple[float, float]:
    pairs = list(zip(left, right, strict=True))
    return max(abs(_p(a) - _p(b)) for a, b in pairs), max(max(abs(a.zero - b.zero), abs(a.one - b.one)) for a, b in pairs)


def _p(read: Read) -> float:
    return 1 / (1 + math.exp(read.zero - read.one))


def _rms(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    wide = values.double()
    return wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6) * weight.double()


def _whole(fed: Fed) -> torch.Tensor:
    return fed.values.to(torch.float8_e4m3fn).double() * fed.scales.double()[:, None]


def _random(bench: Bench, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=bench.device).to(dtype)
