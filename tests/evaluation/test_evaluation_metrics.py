"""Our metrics are those of scikit-learn, and say what it does not: intervals over units, and a threshold for a target."""

import math

import numpy as np
import pytest
import sklearn.metrics as oracle
from hypothesis import given
from hypothesis import strategies as st

from guardrail.errors import GuardrailError
from guardrail.evaluation.agreement import kappa
from guardrail.evaluation.crossfit import Pool, proposed
from guardrail.evaluation.reliability import reliability
from guardrail.evaluation.thresholds import TARGETS, propose
from guardrail.ranking import curve

# Few distinct scores, so that ties are common.
ROWS = st.lists(st.tuples(st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.5, 0.55, 0.9, 1.0]), st.integers(0, 1)), min_size=2, max_size=60)
TWO_SIDED = ROWS.filter(lambda rows: len({label for _, label in rows}) == 2)


@given(TWO_SIDED)
def test_areas_and_recall_are_those_of_scikit_learn(rows: list[tuple[float, int]]) -> None:
    scores, labels = zip(*rows, strict=True)
    found = curve(scores, labels)
    assert found.auc() == pytest.approx(oracle.roc_auc_score(labels, scores))
    assert found.average_precision() == pytest.approx(oracle.average_precision_score(labels, scores))
    fpr, recall, _ = oracle.roc_curve(labels, scores, drop_intermediate=False)
    for limit in (0.01, 0.05, 0.5):
        assert found.recall_at(limit) == pytest.approx(recall[fpr <= limit].max())


@given(ROWS)
def test_brier_and_calibration_error_follow_their_definitions(rows: list[tuple[float, int]]) -> None:
    scores, labels = (np.array(each) for each in zip(*rows, strict=True))
    found = reliability(scores, labels)
    assert found.brier == pytest.approx(np.mean((scores - labels) ** 2))
    assert sum(each.rows for each in found.bins) == len(rows)
    assert found.ece == pytest.approx(sum(each.rows * abs(each.mean - each.share) for each in found.bins) / len(rows))
    assert all(each.low - 1e-9 <= each.mean <= each.high + 1e-9 for each in found.bins)


def test_scores_that_mean_what_they_say_have_no_calibration_error() -> None:
    assert reliability([0.25] * 4 + [1.0], [1, 0, 0, 0, 1]).ece == 0.0
    assert reliability([0.9] * 10, [0] * 10).ece == pytest.approx(0.9)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_kappa_is_that_of_scikit_learn(rows: list[tuple[bool, bool]]) -> None:
    first, second = zip(*rows, strict=True)
    found = kappa(first, second)
    assert -1 <= found.low <= found.high <= 1
    if len({*first, *second}) == 2:
        assert found.value == pytest.approx(oracle.cohen_kappa_score(first, second))


def test_repeating_rows_of_a_unit_narrows_no_interval() -> None:
    first, second = [True, True, False, False, True, False] * 2, [True, False, False, False, True, True] * 2
    alone = kappa(first, second)
    repeated = kappa(first * 20, second * 20, [str(place) for place in range(len(first))] * 20)
    rows = kappa(first * 20, second * 20)
    assert (repeated.low, repeated.high) == pytest.approx((alone.low, alone.high), abs=0.1)
    assert rows.high - rows.low < (alone.high - alone.low) / 3
    assert alone == kappa(first, second)


@given(TWO_SIDED, st.sampled_from(TARGETS))
def test_a_proposal_keeps_what_it_promises(rows: list[tuple[float, int]], target: str) -> None:
    scores, labels = (np.array(each) for each in zip(*rows, strict=True))
    found = propose(curve(scores, labels), target)
    if found is None:
        return
    assert 0 < found.threshold <= 1
    flags = scores >= found.threshold
    assert found.precision == pytest.approx(oracle.precision_score(labels, flags, zero_division=0))
    assert found.recall == pytest.approx(oracle.recall_score(labels, flags))
    assert found.f1 == pytest.approx(oracle.f1_score(labels, flags, zero_division=0))
    kind, _, limit = target.partition("=")
    assert (
        not limit or {"fpr": limit and found.fpr <= float(limit), "precision": found.precision >= 0.9, "recall": found.recall >= 0.9}[kind]
    )
    if target == "f1":
        assert found.f1 == pytest.approx(max(oracle.f1_score(labels, scores >= each, zero_division=0) for each in {*scores} - {0.0}))


def test_where_a_target_cannot_be_reached_nothing_is_proposed() -> None:
    assert propose(curve([0.9, 0.8], [0, 1]), "precision=0.9") is None
    assert propose(curve([0.9, 0.8], [1, 1]), "f1") is None
    for target in ("f2", "fpr=2", "fpr=", "recall"):
        with pytest.raises(GuardrailError, match="target"):
            propose(curve([0.9, 0.8], [1, 0]), target)


def test_what_a_proposal_does_elsewhere_is_not_what_it_was_chosen_for() -> None:
    draws = np.random.default_rng(1)
    units = [f"u{place // 2}" for place in range(80)]
    scores = np.repeat(draws.random(40), 2)
    labels = np.repeat(draws.integers(0, 2, 40), 2)
    found = proposed(Pool(tuple(scores), tuple(map(int, labels)), tuple(units)), "f1")
    assert found is not None
    assert found.crossed is not None
    assert found.crossed.f1 < found.here.f1
    assert found.crossed.low <= found.here.threshold <= found.crossed.high
    assert found.told is found.crossed
    preset = proposed(Pool(tuple(scores), tuple(map(int, labels)), tuple(units)), "high-recall")
    assert preset is not None
    assert preset.told is preset.here
    assert preset.cells()[1] == "-"


def test_without_both_labels_there_is_no_area() -> None:
    found = curve([0.2, 0.9], [0, 0])
    assert (found.auc(), found.average_precision(), found.recall_at(0.01)) == (None, None, None)
    assert not any(math.isnan(value) for value in (*found.fpr, *found.recall, *found.f1))
