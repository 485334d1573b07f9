"""Each kernel against float64 on fresh data. What a kernel must write is NaN before it runs, and so is what it must not touch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from guardrail.engine.cope.attention_cpu import Scoring
from guardrail.engine.cope.cuda.launch import (
    Attention,
    Dimensions,
    Fed,
    Finish,
    Laid,
    Scratch,
    add_norm,
    geglu,
    norm,
    read_answers,
    rotate_and_keep,
)
from guardrail.engine.cope.cuda.worklist import Tiling, row_starts, work_list
from guardrail.engine.cope.kv import PAGE, KVPool, KVShape, KVSpan
from guardrail.engine.cope.rows import Plan, Row, plan

# exp(-2z) of a gate far below zero is infinite on the way to the 0 that it means; numpy, unlike a GPU, says so.
pytestmark = [
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),  # Triton 3.6's interpreter, for numpy < 2.4
]

EPS = 1e-6
SIZES = Dimensions(heads=2, shared=2, size=16, width=48)


@pytest.fixture(autouse=True)
def poisoned():
    """Memory that torch hands out uninitialised holds NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def fresh() -> torch.Generator:
    seed = int(torch.randint(1 << 40, ()))
    print("seed", seed)
    return torch.Generator().manual_seed(seed)


def rms(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    wide = values.double()
    return wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPS) * weight.double()


def whole(fed: Fed) -> torch.Tensor:
    """What a product is fed, as numbers; e4m3 rounded by torch, as it is on the CPU."""
    values = fed.values.double()
    return values if fed.scales is None else fed.values.to(torch.float8_e4m3fn).double() * fed.scales.double()[:, None]


def near(found: torch.Tensor, wanted: torch.Tensor, within: float = 2e-6) -> bool:
    return bool(((found - wanted).abs() <= within * wanted.abs().amax()).all())


# e4m3 keeps three bits behind the leading one: half a step is a sixteenth of a number, and of the row's largest at most.
E4M3_STEP = 1 / 16


def test_a_norm_with_its_residual(fresh: torch.Generator):
    hidden, delta = torch.randn(2, 5, 48, generator=fresh)
    post, pre = torch.rand(2, 48, generator=fresh) + 0.5
    wanted = hidden.double() + rms(delta, post)
    out, fed = add_norm(hidden, delta, (post, pre, EPS))
    assert out is hidden
    assert near(out, wanted)
    assert near(whole(fed), rms(wanted, pre))
    assert near(whole(norm(hidden, pre, EPS)), rms(wanted, pre))


def test_a_norm_of_some_rows_leaves_the_others_alone(fresh: torch.Generator):
    hidden, delta = torch.randn(5, 48, generator=fresh), torch.randn(2, 48, generator=fresh)
    post, pre = torch.rand(2, 48, generator=fresh) + 0.5
    before, rows = hidden.clone(), torch.tensor([3, 0], dtype=torch.int32)
    out, fed = add_norm(hidden, delta, (post, pre, EPS), rows=rows)
    wanted = hidden[[3, 0]].double() + rms(delta, post)
    assert near(out, wanted)
    assert near(whole(fed), rms(wanted, pre))
    assert torch.equal(hidden, before)


def test_what_feeds_an_e4m3_product_has_a_scale_for_each_token(fresh: torch.Generator):
    hidden = torch.randn(4, 48, generator=fresh) * torch.tensor([1e-3, 1.0, 50.0, 0.0])[:, None]
    gate_up = torch.randn(4, 2 * 40, generator=fresh) * torch.tensor([0.1, 1.0, 3.0, 0.0])[:, None]
    gate, up = gate_up.double().chunk(2, dim=-1)
    pre = torch.ones(48)
    for fed, wanted in (
        (norm(hidden, pre, EPS, fp8=True), rms(hidden, pre)),
        (geglu(gate_up, fp8=True), F.gelu(gate, approximate="tanh") * up),
    ):
        largest = wanted.abs().amax(dim=-1)
        assert fed.scales is not None
        assert near(fed.scales[:3], largest[:3] / 448)
        assert ((whole(fed) - wanted).abs() <= E4M3_STEP * wanted.abs() + 1e-3 * largest[:, None]).all()
        assert (whole(fed)[3] == 0).all()


def test_the_gate(fresh: torch.Generator):
    gate_up = 3 * torch.randn(3, 2 * 2100, generator=fresh)
    gate, up = gate_up.double().chunk(2, dim=-1)
    assert near(whole(geglu(gate_up)), F.gelu(gate, approximate="tanh") * up)


def test_rotation_happens_in_place_and_kept_tokens_reach_the_pool_alone(fresh: torch.Generator):
    tokens, longest = 5, 9000
    qkv = torch.randn(tokens, 8, 16, generator=fresh)
    before = qkv.double()
    layer = torch.full((2, 2, PAGE, 16), torch.nan)
    positions = torch.tensor([0, 1, 7, 4096, 8191])
    slots = torch.tensor([3, -1, 40, -1, 63])
    inverse = 10_000.0 ** (-torch.arange(0, 16, 2) / 16)
    table = torch.arange(longest)[:, None] * inverse
    laid = laid_out(tokens, positions=positions, slots=slots)
    rotate_and_keep(qkv, layer, laid, torch.cat([table.cos(), table.sin()], dim=1), SIZES)
    angle = (positions[:, None] * inverse).double()[:, None]
    low, high = before[:, :6].chunk(2, dim=-1)
    turned = torch.cat([low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin()], dim=-1)
    assert near(qkv[:, :6], turned)
    assert torch.equal(qkv[:, 6:].double(), before[:, 6:])
    kept = slots >= 0
    assert torch.equal(layer[0][:, slots[kept]], qkv[kept, 4:6].transpose(0, 1))
    assert torch.equal(layer[1][:, slots[kept]], qkv[kept, 6:].transpose(0, 1))
    assert layer.isnan().sum() == 2 * 2 * (PAGE - 3) * 16


def test_answers_and_the_mass_of_everything_else(fresh: torch.Generator):
    states, words = torch.randn(3, 48, generator=fresh), torch.randn(300, 48, generator=fresh)
    logits = 30 * torch.tanh(states.double() @ words.double().T / 30)
    found = read_answers(states, words[[7, 9]], words, 30.0)
    assert near(found[:, :2], logits[:, [7, 9]])
    assert near(found[:, 2], logits.logsumexp(-1))


def test_the_whole_mass_is_never_less_than_the_two_answers(fresh: torch.Generator):
    states, words = torch.randn(2, 48, generator=fresh), torch.randn(20, 48, generator=fresh)
    rows = 1.5 * words[[0, 1]]
    found = read_answers(states, rows, 1e-3 * words, 30.0)
    assert (found[:, 2] >= found[:, :2].logsumexp(-1) - 1e-6).all()


def laid_out(tokens: int, **columns: torch.Tensor) -> Laid:
    nothing = torch.zeros(tokens, dtype=torch.int32)
    given = {name: values.to(torch.int32) for name, values in columns.items()}
    names = ("ids", "positions", "row_starts", "slots", "reads", "entries")
    return Laid(**{name: given.get(name, nothing) for name in names})


def a_pass(fresh: torch.Generator) -> tuple[Plan, KVPool]:
    """A policy of three pages seen by four rows, one of them behind a stream, a second policy and a row behind nothing: 83 tokens."""
    pool = KVPool(KVShape(1, SIZES.heads, SIZES.size), budget_bytes=9 * PAGE * 2 * SIZES.heads * SIZES.size * 4)
    pool.release(pool.allocate(pool.pages)[1::2])  # what follows lies scattered
    pool.kv.fill_(torch.nan)
    first, second, stream = KVSpan(pool), KVSpan(pool), KVSpan(pool, first=100)
    for span, length in ((first, 100), (second, 40), (stream, 30)):
        span.reserve(length)
        span.append(np.zeros(length, np.int32))
        pool.kv[:, :, :, span.slots(0, length)] = torch.randn(1, 2, SIZES.heads, length, SIZES.size, generator=fresh)
    sizes = {(first,): (1, 20, 9), (first, stream): (13,), (second,): (25,), (): (15,)}
    return plan([Row(np.zeros(size, np.int32), chain) for chain, each in sizes.items() for size in each]), pool


def attended(planned: Plan, pool: KVPool, qkv: torch.Tensor, scoring: Scoring) -> torch.Tensor:
    """By the definition, row by row, in float64."""
    query, key, value = qkv.double().view(planned.tokens, -1, SIZES.size).transpose(0, 1).split([4, 2, 2])
    out = torch.empty(planned.tokens, 4, SIZES.size, dtype=torch.float64)
    for number, row in enumerate(planned.rows):
        own = slice(*planned.starts[number : number + 2].tolist())
        slots = np.concatenate([np.zeros(0, np.int64), *(span.slots(0, span.length) for span in row.chain)])
        keys, values = (
            torch.cat([kept.double()[:, slots], new[:, own]], dim=1) for kept, new in zip(pool.kv[0], (key, value), strict=True)
        )
        scores = torch.einsum("htd,hkd->htk", query[:, own], keys.repeat_interleave(SIZES.shared, 0)) * scoring.scale
        scores = scoring.softcap * torch.tanh(scores / scoring.softcap)
        apart = torch.as_tensor(planned.positions[own])[:, None] - torch.arange(keys.shape[1])
        scores.masked_fill_((apart < 0) | (apart >= (scoring.window or 1 << 30)), -torch.inf)
        out[own] = torch.einsum("htk,hkd->thd", scores.softmax(-1), values.repeat_interleave(SIZES.shared, 0))
    return out.reshape(planned.tokens, -1)


@pytest.mark.parametrize(
    ("shape", "window"),
    [(Tiling(32, 64, 4), None), (Tiling(32, 64, 4), 17), (Tiling(64, 32, 1), 45), (Tiling(64, 32, 2), None)],
    ids=["narrow, 4 splits", "narrow, 4 splits, window", "wide, window", "wide, 2 splits"],
)
def test_attention_over_any_mix_of_rows(fresh: torch.Generator, shape: Tiling, window: int | None):
    planned, pool = a_pass(fresh)
    qkv = torch.randn(96, 8 * SIZES.size, generator=fresh)  # 13 tokens of padding
    qkv[:, : 4 * SIZES.size] *= 8  # scores reach the soft-cap
    scoring = Scoring(0.25, 50.0, window)
    blocks = -(-96 // shape.block)
    found = work_list(planned, shape, blocks=blocks, window=window)
    starts = torch.full((96,), 1 << 30)
    starts[: planned.tokens] = torch.from_numpy(row_starts(planned))
    laid = laid_out(
        96,
        positions=F.pad(torch.from_numpy(planned.positions), (0, 13)),
        row_starts=starts,
        reads=torch.tensor([2, 81]),
        entries=torch.from_numpy(found.entries),
    )
    attend = Attention(shape, SIZES, Scratch.of(blocks * shape.splits * shape.block, SIZES, torch.device("cpu")))
    work = (laid, torch.from_numpy(found.programs))
    wanted = attended(planned, pool, qkv[: planned.tokens], scoring)
    everything = whole(attend(qkv, pool.kv[0], work, scoring, Finish()))
    assert near(everything[: planned.tokens], wanted, 5e-5)
    assert (everything[planned.tokens :] == 0).all()
    picked = whole(attend(qkv, pool.kv[0], work, scoring, Finish(laid.reads)))
    assert near(picked, wanted[[2, 81]], 5e-5)


def test_attention_into_e4m3(fresh: torch.Generator):
    planned, pool = a_pass(fresh)
    shape, scoring = Tiling(64, 32, 1), Scoring(0.25, 50.0)
    qkv = torch.randn(planned.tokens, 8 * SIZES.size, generator=fresh)
    found = work_list(planned, shape, blocks=2, window=None)
    laid = laid_out(
        planned.tokens,
        positions=torch.from_numpy(planned.positions),
        row_starts=torch.from_numpy(row_starts(planned)),
        entries=torch.from_numpy(found.entries),
        reads=torch.tensor([5, 50]),
    )
    attend = Attention(shape, SIZES, Scratch.of(128, SIZES, torch.device("cpu")))
    fed = attend(qkv, pool.kv[0], (laid, torch.from_numpy(found.programs)), scoring, Finish(laid.reads, fp8=True))
    wanted = attended(planned, pool, qkv, scoring)[[5, 50]]
    assert fed.scales is not None
    assert near(fed.scales, wanted.abs().amax(-1) / 448, 1e-4)
    assert ((whole(fed) - wanted).abs() <= E4M3_STEP * wanted.abs() + 1e-3 * wanted.abs().amax()).all()


def test_sizes_that_the_kernels_cannot_cut_are_refused():
    with pytest.raises(ValueError, match="head size of 24 is not a power of two"):
        Dimensions(heads=2, shared=2, size=24, width=48)
    with pytest.raises(ValueError, match="width of 50 is not a multiple of 16"):
        Dimensions(heads=2, shared=2, size=16, width=50)
