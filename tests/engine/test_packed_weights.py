"""Weights packed for the flat runners are the model's own, once in memory, and replaceable by name."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from exactness import CLOSE, Desk, apart, question
from tiny_models import TAIL, head_of, naive, pool_for, random_tokens, tiny_gemma2

from guardrail.engine.cope.flat import FlatRunner
from guardrail.engine.cope.packed_weights import DenseProjection, PackedWeights, fused_weights

PROMPT = random_tokens(np.random.default_rng(8), 40)


def test_the_model_keeps_its_weights_as_views_of_the_fused_ones():
    model = tiny_gemma2()
    before = naive(model, PROMPT)

    weights = PackedWeights.from_gemma2(model)

    fused = weights.layers[1].qkv
    assert isinstance(fused, DenseProjection)
    key = model.model.layers[1].self_attn.k_proj.weight
    assert key.untyped_storage().data_ptr() == fused.weight.untyped_storage().data_ptr()
    assert torch.equal(fused.weight[128:192], key)
    assert naive(model, PROMPT) == before


def test_packing_twice_takes_memory_once():
    model = tiny_gemma2()
    first, second = (PackedWeights.from_gemma2(model).layers[0].gate_up for _ in range(2))

    assert isinstance(first, DenseProjection)
    assert isinstance(second, DenseProjection)
    assert first.weight.data_ptr() == second.weight.data_ptr()
    assert first.weight.shape == second.weight.shape


def test_any_projection_can_be_replaced_by_name():
    model = tiny_gemma2(sliding_window=50)
    calls: list[str] = []

    class Counted:
        def __init__(self, name: str, weight: torch.Tensor) -> None:
            self.name, self.weight = name, weight

        def __call__(self, inputs: torch.Tensor, /) -> torch.Tensor:
            calls.append(self.name)
            return inputs @ self.weight.T

    replaced = {name: Counted(name, weight) for name, weight in fused_weights(model)}
    desk = Desk(model, lambda model, pool, head: FlatRunner(PackedWeights.from_gemma2(model, replaced), pool, head))

    found = desk.scores([question(desk.prefix(PROMPT), PROMPT[:9])])

    assert apart(found, [desk.naive(PROMPT, PROMPT[:9], TAIL)]) < CLOSE
    assert set(calls) == set(replaced) == {f"layers.{n}.{part}" for n in range(4) for part in ("qkv", "o", "gate_up", "down")}


@pytest.mark.parametrize("setting", [{"attn_logit_softcapping": None}, {"hidden_activation": "silu"}, {"attention_bias": True}])
def test_what_the_flat_maths_does_not_cover_is_refused(setting: dict[str, object]):
    with pytest.raises(ValueError, match="packed weights need"):
        PackedWeights.from_gemma2(tiny_gemma2(**setting))


def test_the_flat_runner_computes_on_the_cpu_only():
    model = tiny_gemma2()
    weights = PackedWeights.from_gemma2(model)

    with pytest.raises(ValueError, match="its weights are on meta"):
        FlatRunner(replace(weights, embedding=weights.embedding.to("meta")), pool_for(model, 4), head_of(model))
