"""Eight bits a weight: exact sums of rounded numbers, one token's rounding none of another's business."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_gemma2, tiny_qwen2

from guardrail.engine.cope.packed_weights import ScaledProjection
from guardrail.engine.cope.quantise import Fp8Projection, Int8Projection, fp8_rows, quantise_layers

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 9).map(lambda n: 16 * n), st.integers(1, 9).map(lambda n: 16 * n), st.integers(0, 99))


def drawn(shape: tuple[int, int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs [T, in] with outliers and a weight [out, in]."""
    tokens, width, rows, seed = shape
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(tokens, width, generator=generator)
    inputs[:, :1] *= 30
    return inputs, torch.randn(rows, width, generator=generator) * 0.05


def rounded(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = values.abs().amax(1, keepdim=True) / 127
    return (values / scale).round().double(), scale.double()


@given(SHAPES)
@settings(max_examples=40, deadline=None)
def test_int8_sums_are_exact(shape: tuple[int, int, int, int]) -> None:
    inputs, weight = drawn(shape)
    (tokens, token_scale), (rows, row_scale) = rounded(inputs), rounded(weight)
    expected = (tokens @ rows.t()) * token_scale * row_scale.t()
    torch.testing.assert_close(Int8Projection.of(weight)(inputs).double(), expected, rtol=2e-6, atol=1e-9)


@given(SHAPES)
@settings(max_examples=20, deadline=None)
def test_both_ways_to_an_int8_product_are_one(shape: tuple[int, int, int, int]) -> None:
    inputs, weight = drawn(shape)
    scale = weight.abs().amax(1) / 127
    plain = Int8Projection((weight / scale[:, None]).round().to(torch.int8), scale, packed=False)
    torch.testing.assert_close(Int8Projection.of(weight)(inputs), plain(inputs), rtol=2e-6, atol=1e-9)


@given(SHAPES)
@settings(max_examples=20, deadline=None)
def test_fp8_stays_within_what_three_bits_of_fraction_allow(shape: tuple[int, int, int, int]) -> None:
    inputs, weight = drawn(shape)
    exact = inputs.double() @ weight.double().t()
    size = inputs.double().abs() @ weight.double().abs().t()
    assert ((Fp8Projection.of(weight)(inputs).double() - exact).abs() <= size * (2 * 2**-4 + 2**-8) + 1e-6).all()


def test_fp8_inputs_may_come_rounded() -> None:
    inputs, weight = drawn((7, 64, 32, 1))
    projection = Fp8Projection.of(weight)
    assert isinstance(projection, ScaledProjection)
    assert torch.equal(projection.scaled(*fp8_rows(inputs)), projection(inputs))


@pytest.mark.parametrize("kind", [Int8Projection, Fp8Projection])
def test_a_token_is_rounded_by_itself(kind: type[Int8Projection | Fp8Projection]) -> None:
    inputs, weight = drawn((20, 64, 48, 2))
    projection = kind.of(weight)
    torch.testing.assert_close(torch.cat([projection(token) for token in inputs.split(1)]), projection(inputs), rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize("kind", [Int8Projection, Fp8Projection])
def test_a_nan_stays_a_nan_and_in_its_token(kind: type[Int8Projection | Fp8Projection]) -> None:
    inputs, weight = drawn((3, 64, 48, 3))
    inputs[1, 5] = float("nan")
    found = kind.of(weight)(inputs)
    assert found[1].isnan().all()
    assert not found[[0, 2]].isnan().any()


@pytest.mark.parametrize("kind", [Int8Projection, Fp8Projection])
def test_zeros_are_zeros(kind: type[Int8Projection | Fp8Projection]) -> None:
    assert not kind.of(torch.zeros(16, 32))(torch.ones(2, 32)).any()
    assert not kind.of(torch.ones(16, 32))(torch.zeros(2, 32)).any()


@pytest.mark.parametrize("kind", [Int8Projection, Fp8Projection])
def test_the_type_of_the_model_is_kept(kind: type[Int8Projection | Fp8Projection]) -> None:
    inputs, weight = drawn((2, 32, 16, 4))
    assert kind.of(weight.bfloat16())(inputs.bfloat16()).dtype == torch.bfloat16


def test_the_weight_that_was_given_is_left_alone() -> None:
    _, weight = drawn((1, 32, 16, 5))
    before = weight.clone()
    Int8Projection.of(weight)
    Fp8Projection.of(weight)
    assert torch.equal(weight, before)


def test_a_shape_that_a_gpu_does_not_take_is_refused() -> None:
    with pytest.raises(ValueError, match=r"multiples of 16, not \(24, 32\)"):
        Fp8Projection.of(torch.zeros(24, 32))


@pytest.mark.parametrize("make", [tiny_gemma2, tiny_qwen2])
@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_a_quantised_module_answers_nearly_as_before(make: object, kind: str) -> None:
    """Biases stay; a copy of the module runs by itself; fused parts are cut where they belong."""
    model = make(num_hidden_layers=2)  # type: ignore[operator]
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        before = model(ids, use_cache=False).logits
        projections = quantise_layers(model, kind)  # type: ignore[arg-type]
        after = model(ids, use_cache=False).logits
        copied = copy.deepcopy(model)(ids, use_cache=False).logits
    assert sorted(projections) == [f"layers.{layer}.{name}" for layer in (0, 1) for name in ("down", "gate_up", "o", "qkv")]
    assert torch.equal(after, copied)
    assert 0 < (after - before).norm() / before.norm() < (0.1 if kind == "int8" else 0.4)


def test_weights_may_come_in_more_precision_than_the_model_holds() -> None:
    model = tiny_gemma2(num_hidden_layers=1)
    exact = {name: parameter.clone() for name, parameter in model.named_parameters()}
    from_half = quantise_layers(copy.deepcopy(model).bfloat16(), "fp8")
    from_full = quantise_layers(copy.deepcopy(model).bfloat16(), "fp8", exact=exact.__getitem__)
    directly = quantise_layers(model, "fp8")
    assert torch.equal(from_full["layers.0.qkv"].weight.float(), directly["layers.0.qkv"].weight.float())
    assert not torch.equal(from_half["layers.0.qkv"].weight.float(), directly["layers.0.qkv"].weight.float())
