"""Every way to run a plan gives what the stock model gives for the whole prompts: one conformance test over all tiers, the same plans."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import TAIL, head_of, naive, naive_logits, pool_for, probability, random_tokens, tiny_gemma2

from guardrail.engine.cope.cuda.flex import FlexRunner
from guardrail.engine.cope.cuda.runner import CudaRunner, Limits
from guardrail.engine.cope.flat import FlatRunner
from guardrail.engine.cope.kv import KVSpan
from guardrail.engine.cope.packed_weights import PackedWeights, fused_weights
from guardrail.engine.cope.quantise import Fp8Projection
from guardrail.engine.cope.reference import ReferenceRunner
from guardrail.engine.cope.rows import Row, plan
from guardrail.engine.cope.runner import Runner, execute

pytestmark = [
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),  # numpy's word for what a GPU passes over
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),  # Triton 3.6's interpreter, for numpy < 2.4
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning"),
]

WINDOW = 40
# One key head to two query heads: the interpreter takes its time for each; kernels of several key heads are checked by themselves.
MODEL = tiny_gemma2(
    num_hidden_layers=2, hidden_size=64, intermediate_size=96, num_attention_heads=2, num_key_value_heads=1, sliding_window=WINDOW
)
FEW_SPLITS, MANY_SPLITS = (Limits(longest=256, most_tokens=32, processors=processors) for processors in (2, 16))

TIERS: dict[str, Callable[[], Runner]] = {
    "reference": lambda: ReferenceRunner(MODEL, pool_for(MODEL, 24), head_of(MODEL, probe=True)),
    "flat": lambda: FlatRunner(PackedWeights.from_gemma2(MODEL), pool_for(MODEL, 24), head_of(MODEL, probe=True)),
    "flex": lambda: FlexRunner(PackedWeights.from_gemma2(MODEL), pool_for(MODEL, 24), head_of(MODEL, probe=True)),
    "cuda": lambda: CudaRunner(PackedWeights.from_gemma2(MODEL), pool_for(MODEL, 24), head_of(MODEL, probe=True), FEW_SPLITS),
}


@dataclass(frozen=True)
class Side:
    """A runner with two resident policies: of 110 tokens, whose first tile lies beyond the window, and of 5."""

    runner: Runner
    policies: list[KVSpan]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def dice() -> np.random.Generator:
    seed = int(np.random.default_rng().integers(1 << 40))
    print("seed", seed)
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def sides() -> tuple[Side, Side]:
    """The reference and the kernels. What the latter hold as policies was computed by the former."""
    weights = PackedWeights.from_gemma2(MODEL)
    whole = ReferenceRunner(MODEL, pool_for(MODEL, 24), head_of(MODEL))
    cuda = CudaRunner(weights, pool_for(MODEL, 24), head_of(MODEL), FEW_SPLITS)
    generator = np.random.default_rng(7)
    kept = [filled(whole, random_tokens(generator, size)) for size in (110, 5)]
    return Side(whole, kept), Side(cuda, [copied(span, cuda) for span in kept])


def copied(span: KVSpan, runner: Runner) -> KVSpan:
    """The same keys and values in another runner's pool."""
    copy = KVSpan(runner.pool, first=span.first)
    copy.reserve(span.length)
    runner.pool.kv[:, :, :, copy.slots(0, span.length)] = span.pool.kv[:, :, :, span.slots(0, span.length)]
    copy.append(span.tokens)
    return copy


@pytest.fixture
def runner(request: pytest.FixtureRequest) -> Runner:
    return TIERS[request.param]()


def filled(runner: Runner, tokens: np.ndarray, *, portion: int = 32) -> KVSpan:
    """A policy made resident, in portions."""
    span = KVSpan(runner.pool)
    for start in range(0, len(tokens), portion):
        part = tokens[start : start + portion]
        execute(runner, [Row(part, (span,) if span.length else (), span, len(part), read=False)])
    return span


@pytest.mark.parametrize("runner", TIERS, indirect=True)
def test_a_tier_answers_as_the_stock_model_does(runner: Runner, dice: np.random.Generator):
    """Two policies, one filled in portions, the window active; one-shot checks, a row behind nothing, a stream that grows."""
    policies = [random_tokens(dice, 70), random_tokens(dice, 9)]
    spans = [filled(runner, policy) for policy in policies]
    contents = [np.concatenate([random_tokens(dice, size), TAIL]) for size in (1, 2)]
    alone, growing, more = random_tokens(dice, 4), random_tokens(dice, 9), random_tokens(dice, 3)
    stream = KVSpan(runner.pool, first=len(policies[0]))
    first = execute(
        runner,
        [
            Row(contents[0], (spans[1],)),
            Row(np.concatenate([growing, TAIL]), (spans[0],), stream, len(growing), probe=True),
            Row(contents[1], (spans[0],)),
            Row(alone),
        ],
    )
    second = execute(runner, [Row(np.concatenate([more, TAIL]), (spans[0], stream), stream, len(more)), Row(contents[0], (spans[0],))])
    prompts = [
        np.concatenate([policies[1], contents[0]]),
        np.concatenate([policies[0], growing, TAIL]),
        np.concatenate([policies[0], contents[1]]),
        alone,
        np.concatenate([policies[0], growing, more, TAIL]),
        np.concatenate([policies[0], contents[0]]),
    ]
    told = [*first, *second]
    assert max(abs(probability(read) - naive(MODEL, prompt)) for read, prompt in zip(told, prompts, strict=True)) < 1e-5
    totals = [float(naive_logits(MODEL, prompt).logsumexp(0)) for prompt in prompts]
    assert [read.log_total for read in told] == pytest.approx(totals, abs=1e-4)
    assert len(first[1].probe) == len(growing)
    assert first[1].probe == pytest.approx(probed(np.concatenate([policies[0], growing])), abs=1e-5)


def probed(prompt: np.ndarray, last: int = 9) -> list[float]:
    """The stream probe on the stock model's final hidden states."""
    with torch.inference_mode():
        hidden = MODEL.model(input_ids=torch.from_numpy(prompt.astype(np.int64))[None], use_cache=False).last_hidden_state[0, -last:]
    scores = head_of(MODEL, probe=True).probe_scores(hidden)
    assert scores is not None
    return scores.tolist()


def test_the_window_closes_at_its_very_position(sides: tuple[Side, Side]):
    """A key is seen where it is less than WINDOW away: from position WINDOW on the first one is hidden."""
    planned = plan([Row(np.zeros(3, np.int32))])
    assert [sides[1].runner.variant(planned, farthest).windowed for farthest in (WINDOW - 1, WINDOW)] == [False, True]


def test_how_many_splits_share_the_keys_does_not_matter(sides: tuple[Side, Side], dice: np.random.Generator):
    whole, _ = sides
    many = CudaRunner(PackedWeights.from_gemma2(MODEL), pool_for(MODEL, 24), head_of(MODEL), MANY_SPLITS)
    assert many.buckets[0].shape.splits == 16
    content = random_tokens(dice, 12)
    wanted = execute(whole.runner, [Row(content, (whole.policies[0],))])[0]
    found = execute(many, [Row(content, (copied(whole.policies[0], many),))])[0]
    assert (found.zero, found.one, found.log_total) == pytest.approx((wanted.zero, wanted.one, wanted.log_total), abs=1e-4)


ROWS = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5), st.booleans()), min_size=1, max_size=3)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(shapes=ROWS, seed=st.integers(0, 1 << 20))
def test_random_passes_agree_with_the_reference(sides: tuple[Side, Side], shapes: list[tuple[int, int, bool]], seed: int):
    """Each row: which policy (2: none), how many tokens, are they kept."""
    generator = np.random.default_rng(seed)
    asked = [(policy, random_tokens(generator, size), keep) for policy, size, keep in shapes]
    told, written = [], []
    for side in sides:
        before = side.runner.pool.used_pages
        chains = [(side.policies[policy],) if policy < 2 else () for policy, *_ in asked]
        spans = [KVSpan(side.runner.pool, first=sum(span.length for span in chain)) for chain in chains]
        rows = [
            Row(tokens, chain, span, len(tokens)) if keep else Row(tokens, chain)
            for (_, tokens, keep), chain, span in zip(asked, chains, spans, strict=True)
        ]
        told.append([(read.zero, read.one, read.log_total) for read in execute(side.runner, rows)])
        written.append([side.runner.pool.kv[:, :, :, span.slots(0, span.length)].clone() for span in spans])
        for span in spans:
            span.drop()
        assert side.runner.pool.used_pages == before
    assert np.abs(np.subtract(*told)).max() < 1e-4
    assert all(torch.allclose(left, right, atol=1e-4) for left, right in zip(*written, strict=True))


def test_a_pass_repeated_in_a_used_bucket_is_bit_equal(sides: tuple[Side, Side]):
    runner, (policy, _) = sides[1].runner, sides[1].policies
    rows = [Row(np.arange(5, 12, dtype=np.int32), (policy,)), Row(np.arange(9, 13, dtype=np.int32))]
    first = runner.forward(plan(rows))
    runner.forward(plan([Row(np.arange(3, 18, dtype=np.int32), (policy,))]))
    again = runner.forward(plan(rows))
    assert first.bucket == again.bucket == 16
    assert (first.logits == again.logits).all()
    assert (first.log_total == again.log_total).all()


def test_more_reads_than_rows_ever_have_are_still_read(sides: tuple[Side, Side]):
    tokens = np.arange(20, 37, dtype=np.int32)[:, None]
    told = [[read.one for read in execute(side.runner, [Row(token, (side.policies[1],)) for token in tokens])] for side in sides]
    assert told[0] == pytest.approx(told[1], abs=1e-4)


class FedInE4m3(Fp8Projection):
    """Only takes inputs that are e4m3 already."""

    def __call__(self, inputs: torch.Tensor, /) -> torch.Tensor:
        raise AssertionError("the kernels before it make its inputs")


def test_fp8_weights_are_fed_by_the_kernels_and_score_as_their_emulation_does(sides: tuple[Side, Side], dice: np.random.Generator):
    fused = dict(fused_weights(MODEL))
    told = []
    for kind in (Fp8Projection, FedInE4m3):
        weights = PackedWeights.from_gemma2(MODEL, {name: kind.of(weight) for name, weight in fused.items()})
        runner: Runner = FlatRunner(weights, pool_for(MODEL, 24), head_of(MODEL))
        if kind is FedInE4m3:
            runner = CudaRunner(weights, pool_for(MODEL, 24), head_of(MODEL), FEW_SPLITS)
        told.append((runner, copied(sides[0].policies[0], runner)))
    content = random_tokens(dice, 12)
    (emulated,), (found,) = (execute(runner, [Row(content, (policy,))]) for runner, policy in told)
    assert found.one - found.zero == pytest.approx(emulated.one - emulated.zero, abs=0.02)
    # Both round to three bits where they may; a number near the middle of two falls to either side, and what follows differs a little.


def test_a_pass_that_does_not_fit_is_refused_before_anything_runs(sides: tuple[Side, Side]):
    runner, (policy, _) = sides[1].runner, sides[1].policies
    with pytest.raises(ValueError, match="at most 32 tokens run at a time, in sequences of at most 256"):
        runner.forward(plan([Row(np.zeros(33, np.int32))]))
    far = KVSpan(runner.pool, first=policy.length)
    far.length = 250
    with pytest.raises(ValueError, match="reaches position 360"):
        runner.forward(plan([Row(np.zeros(1, np.int32), (policy, far))]))
