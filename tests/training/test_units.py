"""Splits by unit: one rule for training and evaluation, and folds that keep units whole and labels spread."""

from hypothesis import given
from hypothesis import strategies as st

from guardrail.training.embedded import split
from guardrail.training.rows import TrainingRow
from guardrail.units import HELD_OUT, folds, held_out, unit_of

ROWS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 1)), min_size=1, max_size=80)


def test_what_training_keeps_is_what_evaluation_calls_held_out() -> None:
    rows = [TrainingRow("a text", {}, "small", unit_of("small", "", str(number))) for number in range(2000)]
    learnt, kept = split(rows)
    assert [row.unit for row in kept] == [row.unit for row in rows if held_out(row.unit)]
    assert 0.5 < len(kept) * HELD_OUT / len(rows) < 1.5
    assert len(learnt) + len(kept) == len(rows)


def test_the_rule_is_the_written_one_and_stays() -> None:
    assert [number for number in range(200) if held_out(f"small:{number}")] == [18, 60, 62, 112, 159, 173]


@given(ROWS, st.integers(2, 5))
def test_folds_keep_units_whole(rows: list[tuple[int, int]], count: int) -> None:
    units, labels = [f"u{unit}" for unit, _ in rows], [label for _, label in rows]
    found = folds(units, labels, count)
    assert len({(unit, fold) for unit, fold in zip(units, found, strict=True)}) == len(set(units))
    assert set(found) <= set(range(count))


def test_no_fold_takes_all_of_a_label_that_several_units_have() -> None:
    units = [f"u{number}" for number in range(40)]
    labels = [int(number < 4) for number in range(40)]
    found = folds(units, labels, 2)
    assert sorted(fold for fold, label in zip(found, labels, strict=True) if label) == [0, 0, 1, 1]
