"""A fast runner starts only if it answers fixed questions as the reference does."""

import dataclasses

import pytest
import torch
from tiny_models import VOCABULARY, head_of, pool_for, tiny_gemma2

pytest.importorskip("triton", reason="triton is not installed (it is on Linux only)")

from guardrail.engine.cope.cuda.check import Band, agrees
from guardrail.engine.cope.flat import FlatRunner
from guardrail.engine.cope.packed_weights import PackedWeights
from guardrail.engine.cope.reference import ReferenceRunner
from guardrail.engine.cope.runner import Runner
from guardrail.errors import ClassifierError

WINDOW = 400
MODEL = tiny_gemma2(num_hidden_layers=2, sliding_window=WINDOW)


def reference(pages: int = 32) -> Runner:
    return ReferenceRunner(MODEL, pool_for(MODEL, pages), head_of(MODEL))


def fast(weights: PackedWeights, pages: int = 32, most_tokens: int = 512) -> Runner:
    return FlatRunner(weights, pool_for(MODEL, pages), head_of(MODEL), most_tokens=most_tokens)


def without_window(weights: PackedWeights) -> PackedWeights:
    layers = [dataclasses.replace(layer, scoring=dataclasses.replace(layer.scoring, window=None)) for layer in weights.layers]
    return dataclasses.replace(weights, layers=tuple(layers))


@pytest.mark.parametrize("most_tokens", [512, 40])
def test_a_runner_that_agrees_may_start_and_gives_every_page_back(most_tokens: int):
    runner, whole = fast(PackedWeights.from_gemma2(MODEL), most_tokens=most_tokens), reference()
    found = agrees(runner, whole, vocabulary=VOCABULARY, window=WINDOW)
    assert found.probability < 1e-4
    assert found.questions == 4
    assert found.farthest > WINDOW
    assert runner.pool.used_pages == whole.pool.used_pages == 0


def test_a_runner_that_forgets_the_window_may_not_start():
    runner = fast(without_window(PackedWeights.from_gemma2(MODEL)))
    with pytest.raises(
        ClassifierError, match=r"the cpu runner answers 4 fixed questions .* 0\.001 and 0\.02 are allowed, so it does not"
    ) as told:
        agrees(runner, reference(), vocabulary=VOCABULARY, window=WINDOW)
    assert told.value.code == "canary"
    assert runner.pool.used_pages == 0


def test_an_answer_that_is_no_number_is_outside_of_any_band():
    weights = PackedWeights.from_gemma2(MODEL)
    broken = dataclasses.replace(weights, final_norm=torch.full_like(weights.final_norm, torch.nan))
    with pytest.raises(ClassifierError, match="nan"):
        agrees(fast(broken), reference(), vocabulary=VOCABULARY, window=WINDOW, band=Band(1.0, 1e9))


def test_a_pool_too_small_for_the_window_is_asked_what_fits_it():
    found = agrees(fast(PackedWeights.from_gemma2(MODEL), pages=10), reference(), vocabulary=VOCABULARY, window=WINDOW)
    assert found.questions == 3
    assert found.farthest < WINDOW
