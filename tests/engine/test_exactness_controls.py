"""The exactness tests can fail; and what holds where numbers are rounded, broken or shared."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from exactness import CLOSE, RUNNERS, Desk, Growing, apart, question, shared_gemma2
from tiny_models import TAIL, VOCABULARY, ZERO, naive, naive_logits, probability, random_tokens, tiny_gemma2, tiny_llama

from guardrail.engine.cope.flat import FlatRunner
from guardrail.engine.cope.packed_weights import PackedWeights
from guardrail.engine.cope.reference import ReferenceRunner

FAR = 20 * CLOSE
GENERATOR = np.random.default_rng(2)
POLICY = random_tokens(GENERATOR, 250)
CONTENTS = [random_tokens(GENERATOR, length) for length in (10, 40, 90)]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def scores(desk: Desk, policy: np.ndarray = POLICY) -> list[float]:
    span = desk.prefix(policy)
    return desk.scores([question(span, content) for content in CONTENTS])


def expected(desk: Desk) -> list[float]:
    return [desk.naive(POLICY, content, TAIL) for content in CONTENTS]


@pytest.mark.parametrize("kind", RUNNERS)
@pytest.mark.parametrize(
    "wrong",
    [{"attn_logit_softcapping": 1e4}, {"sliding_window": 8192}, {"final_logit_softcapping": 1e4}, {"query_pre_attn_scalar": 33}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_model_computed_wrongly_is_noticed(kind: str, wrong: dict[str, Any]):
    right, mistaken = shared_gemma2(sliding_window=100), shared_gemma2(**{"sliding_window": 100, **wrong})
    desk = Desk(mistaken, RUNNERS[kind])

    found = scores(desk)

    assert apart(found, expected(Desk(right, RUNNERS[kind]))) > FAR
    assert apart(found, expected(desk)) < CLOSE, "and is exact for the model that it is"


@pytest.mark.parametrize("kind", RUNNERS)
def test_one_early_policy_token_changed_is_noticed(kind: str):
    desk = Desk(shared_gemma2(sliding_window=100), RUNNERS[kind])
    other = POLICY.copy()
    other[3] += 1

    assert apart(scores(desk, other), expected(desk)) > FAR


@pytest.mark.parametrize("kind", RUNNERS)
def test_bf16_is_as_near_to_fp32_of_its_weights_as_the_stock_model(kind: str):
    rounded = tiny_gemma2(sliding_window=100, dtype=torch.bfloat16)
    truth = copy.deepcopy(rounded).float()
    true = [naive(truth, np.concatenate([POLICY, content, TAIL])) for content in CONTENTS]
    stock = [naive(rounded, np.concatenate([POLICY, content, TAIL])) for content in CONTENTS]

    found = scores(Desk(rounded, RUNNERS[kind]))

    assert apart(found, true) < max(0.03, 1.5 * apart(stock, true))
    assert apart(found, true) > CLOSE, "bf16 held to fp32's tolerance would be no bf16"


@pytest.mark.parametrize("kind", RUNNERS)
def test_the_mass_of_the_whole_vocabulary_is_read(kind: str):
    desk = Desk(shared_gemma2(sliding_window=100), RUNNERS[kind])
    span = desk.prefix(POLICY)

    reads = desk.run([question(span, content) for content in CONTENTS])

    for read, content in zip(reads, CONTENTS, strict=True):
        logits = naive_logits(desk.model, np.concatenate([POLICY, content, TAIL]))
        assert read is not None
        assert read.log_total == pytest.approx(float(logits.logsumexp(0)), abs=1e-4)
        assert read.zero == pytest.approx(float(logits[ZERO]), abs=1e-4)


@pytest.mark.parametrize("kind", RUNNERS)
def test_not_a_number_stays_one_and_stays_with_its_row(kind: str):
    model = tiny_gemma2(sliding_window=100, tie_word_embeddings=False)
    poison = VOCABULARY - 1
    model.model.embed_tokens.weight[poison] = float("nan")
    clean = [np.minimum(content, poison - 1) for content in (POLICY, *CONTENTS)]
    bad = clean[2].copy()
    bad[20] = poison
    desk = Desk(model, RUNNERS[kind])
    span = desk.prefix(clean[0])
    stream = Growing(desk, span)

    reads = desk.run([question(span, clean[1]), question(span, bad), stream.row(bad), question(span, clean[3])])

    told = [(read.zero, read.one, read.log_total) for read in reads if read is not None]
    assert np.isnan(told).tolist() == [[False] * 3, [True] * 3, [True] * 3, [False] * 3]
    found = [probability(reads[place]) for place in (0, 3)]
    assert apart(found, [desk.naive(clean[0], content, TAIL) for content in (clean[1], clean[3])]) < CLOSE


def test_what_others_set_on_the_model_does_not_reach_the_reference():
    model = tiny_llama()
    desk = Desk(model, ReferenceRunner)
    before = scores(desk)

    model.set_attn_implementation("sdpa")

    assert scores(desk) == before
    model.set_attn_implementation("eager")
    assert apart(before, expected(desk)) < CLOSE, "nor does the runner reach the model"


def test_the_reference_shares_the_weights_of_its_model():
    model = tiny_llama()
    desk = Desk(model, ReferenceRunner)
    before = scores(desk)

    model.model.layers[0].mlp.down_proj.weight.mul_(1.5)

    assert apart(scores(desk), before) > FAR


def test_an_architecture_that_is_not_proven_is_refused():
    model = tiny_llama()
    model.config.model_type = "mystery"

    with pytest.raises(ValueError, match="no exact runner for the architecture 'mystery'"):
        Desk(model, ReferenceRunner)


def test_positions_that_depend_on_the_longest_row_are_refused():
    model = tiny_llama(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0})

    with pytest.raises(ValueError, match="positions of type 'dynamic'"):
        Desk(model, ReferenceRunner)


def test_the_flat_runner_reads_the_same_without_weights_laid_out_anew():
    model = shared_gemma2(sliding_window=100)
    desk = Desk(model, lambda model, pool, head: FlatRunner(PackedWeights.from_gemma2(model), pool, head, relay=False))

    assert apart(scores(desk), expected(desk)) < CLOSE


def test_a_pass_that_only_fills_reads_nothing():
    desk = Desk(shared_gemma2(sliding_window=100), RUNNERS["cpu"])
    span = desk.prefix(POLICY[:100])

    assert desk.run([desk.prefill(span, POLICY[100:])]) == [None]
    assert span.length == len(POLICY)
