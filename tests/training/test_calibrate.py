"""Calibrations are found again from scores that were distorted by them, and chosen by units that their fit has not seen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail.calibration import Isotonic, Platt, Temperature
from guardrail.errors import GuardrailError
from guardrail.training.calibrate import FITTERS, HeldOut, calibrate, cross_fitted, fit


def distorted(slope: float, offset: float, *, count: int = 6000, seed: int = 0) -> list[HeldOut]:
    """Scores whose true log-odds are `slope` times theirs plus `offset`; every second row shares a unit with the one before."""
    random = np.random.default_rng(seed)
    odds = random.normal(0, 2, count)
    labels = random.random(count) < 1 / (1 + np.exp(-(slope * odds + offset)))
    scores = 1 / (1 + np.exp(-odds))
    return [HeldOut(float(score), int(label), f"u{place // 2}") for place, (score, label) in enumerate(zip(scores, labels, strict=True))]


def test_platt_finds_slope_and_offset() -> None:
    found = fit("platt", distorted(0.5, -1.0))
    assert isinstance(found, Platt)
    assert (found.slope, found.offset) == (pytest.approx(0.5, abs=0.04), pytest.approx(-1.0, abs=0.07))


def test_the_temperature_is_found() -> None:
    found = fit("temperature", distorted(0.5, 0.0))
    assert isinstance(found, Temperature)
    assert found.temperature == pytest.approx(2.0, abs=0.15)


def test_isotonic_steps_are_those_of_scikit_learn_between_the_smoothed_labels() -> None:
    from sklearn.isotonic import IsotonicRegression

    rows = distorted(0.5, -1.0, count=400)
    rows += [HeldOut(row.score, 1 - row.label, row.unit) for row in rows[:50]]  # equal scores with unequal labels
    positives = sum(row.label for row in rows)
    targets = [(positives + 1) / (positives + 2) if row.label else 1 / (len(rows) - positives + 2) for row in rows]
    expected = IsotonicRegression().fit([row.score for row in rows], targets).predict([row.score for row in rows])
    found = fit("isotonic", rows)
    assert [found.apply(row.score) for row in rows] == pytest.approx(expected.tolist(), abs=1e-9)


@pytest.mark.parametrize("method", FITTERS)
def test_each_method_lessens_the_loss_on_units_it_has_not_seen(method: str) -> None:
    found = calibrate(distorted(0.4, -0.0 if method == "temperature" else -1.5), method)
    assert found.log_loss < found.log_loss_before - 0.02
    assert found.brier < found.brier_before
    assert (found.rows, found.units) == (6000, 3000)


def test_without_a_method_the_one_that_fits_unseen_units_best_is_taken() -> None:
    assert calibrate(distorted(0.5, -1.5)).calibration.method == "platt"
    few = calibrate(distorted(0.5, -1.5, count=60))
    assert few.calibration.method != "isotonic"
    rows = distorted(1.0, 0.0)
    bent = [HeldOut(0.8 + 0.15 * row.score if row.score > 0.5 else 0.1 * row.score, row.label, row.unit) for row in rows]
    assert isinstance(calibrate(bent).calibration, Isotonic)
    assert calibrate(bent) == calibrate(bent)


@pytest.mark.parametrize("method", FITTERS)
def test_a_unit_is_never_calibrated_by_what_was_fitted_on_it(method: str) -> None:
    others = [row for row in distorted(0.5, -1.0, count=300) if row.unit != "u7"]
    own = [HeldOut(score, label, "u7") for score in (0.2, 0.9) for label in (0, 1)]
    once, often = (cross_fitted(method, [*others, *own * times])[len(others) :] for times in (1, 40))
    assert once.tolist() == often[:4].tolist()
    assert fit(method, [*others, *own * 40]) != fit(method, [*others, *own])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1), st.integers(0, 5)), max_size=40), st.sampled_from([*FITTERS, None]))
def test_any_rows_give_a_calibration_or_one_sentence(rows: list[tuple[float, int, int]], method: str | None) -> None:
    said = ""
    try:
        found = calibrate([HeldOut(score, label, str(unit)) for score, label, unit in rows], method)
        assert 0 <= found.calibration.apply(0.5) <= 1
    except GuardrailError as error:
        said = str(error)
    assert said.startswith(("calibration needs held-out texts", "scores fall as labels rise")) or not said


def test_what_cannot_be_fitted_is_said() -> None:
    rows = distorted(0.5, 0.0, count=100)
    with pytest.raises(GuardrailError, match="no calibration method 'guess'; choose one of temperature, platt, isotonic"):
        calibrate(rows, "guess")
    with pytest.raises(GuardrailError, match="label 1 has 0"):
        calibrate([row for row in rows if row.label == 0])
    with pytest.raises(GuardrailError, match="scores fall as labels rise"):
        calibrate(distorted(-1.0, 0.0, count=400), "platt")
