"""What the last logits say: a probability, or an error, never a guess."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrail.engine.cope.answer import outside, probability
from guardrail.engine.cope.runner import Read
from guardrail.errors import ClassifierError

LOGITS = st.floats(-30, 30, width=32)


@given(LOGITS, LOGITS, st.lists(LOGITS, max_size=20))
def test_it_is_the_softmax_over_the_two_digits_and_the_rest_is_outside(zero: float, one: float, others: list[float]) -> None:
    mass = np.exp(np.array([zero, one, *others], np.float64))
    read = Read(zero, one, math.log(mass.sum()), bucket=16)
    assert probability(read, most_outside=1.0) == pytest.approx(mass[1] / (mass[0] + mass[1]), abs=1e-12)
    assert outside(read) == pytest.approx(mass[2:].sum() / mass.sum(), abs=1e-9)


@pytest.mark.parametrize("logits", [(math.nan, 1.0, 2.0), (1.0, math.inf, 2.0), (1.0, 1.0, math.nan)])
def test_what_is_no_number_is_an_error(logits: tuple[float, float, float]) -> None:
    with pytest.raises(ClassifierError) as caught:
        probability(Read(*logits, bucket=16))
    assert caught.value.code == "not_a_number"


def test_a_model_that_would_rather_say_something_else_is_an_error_and_not_a_zero() -> None:
    read = Read(zero=2.0, one=1.0, log_total=6.0, bucket=16)
    with pytest.raises(ClassifierError, match="97% to answers that are neither 0 nor 1; 50% is allowed") as caught:
        probability(read)
    assert caught.value.code == "malformed"
    assert probability(read, most_outside=0.98) == pytest.approx(1 / (1 + math.e))
