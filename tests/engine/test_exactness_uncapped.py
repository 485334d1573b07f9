"""Models without a soft-cap take the path with a running maximum, and are exact too."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from exactness import CLOSE, Desk, Growing, apart, question
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import TAIL, random_tokens, tiny_llama, tiny_qwen2

from guardrail.engine.cope.packed_weights import PackedWeights
from guardrail.engine.cope.reference import ReferenceRunner

lengths = st.integers(1, 120)


@pytest.fixture(scope="module", params=[tiny_qwen2, tiny_llama], ids=["qwen2", "llama"])
def desk(request: pytest.FixtureRequest) -> Desk:
    torch.set_num_threads(1)
    return Desk(request.param(), ReferenceRunner)


@settings(max_examples=10, deadline=None)
@given(policies=st.tuples(lengths, lengths), contents=st.lists(lengths, min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_any_pass_is_exact(desk: Desk, policies: tuple[int, ...], contents: list[int], seed: int):
    generator = np.random.default_rng(seed)
    heads = [random_tokens(generator, length) for length in policies]
    spans = [desk.prefix(head, chunk=50) for head in heads]
    texts = [random_tokens(generator, length) for length in contents]

    found = desk.scores([question(spans[place % 2], text) for place, text in enumerate(texts)])

    for span in spans:
        span.drop()
    assert apart(found, [desk.naive(heads[place % 2], text, TAIL) for place, text in enumerate(texts)]) < CLOSE


def test_streams_are_exact(desk: Desk):
    generator = np.random.default_rng(5)
    policy, content = random_tokens(generator, 100), random_tokens(generator, 80)
    stream = Growing(desk, desk.prefix(policy))

    found = [desk.scores([stream.row(content[:length])])[0] for length in (3, 30, 31, 80)]

    assert apart(found, [desk.naive(policy, content[:length], TAIL) for length in (3, 30, 31, 80)]) < CLOSE


@pytest.mark.parametrize("make", [tiny_qwen2, tiny_llama], ids=["qwen2", "llama"])
def test_scores_beyond_the_range_of_exp_are_no_matter(make: Callable[[], Any]):
    model = make()
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.mul_(8)  # scores of several hundred: exp of them is infinite in fp32
    desk = Desk(model, ReferenceRunner)
    generator = np.random.default_rng(6)
    policy, content = random_tokens(generator, 200), random_tokens(generator, 50)

    found = desk.scores([question(desk.prefix(policy, chunk=64), content)])

    assert apart(found, [desk.naive(policy, content, TAIL)]) < 10 * CLOSE  # so sharp an attention magnifies fp32's own noise


def test_the_flat_runner_is_for_capped_models_only():
    with pytest.raises(ValueError, match="packed weights are for gemma2, not 'llama'"):
        PackedWeights.from_gemma2(tiny_llama())
