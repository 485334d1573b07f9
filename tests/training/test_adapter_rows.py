"""What a multilabel adapter learns from: rows of two schemas, splits by unit, noise that does not know labels, steps, thresholds."""

import gzip
import json
import random
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrail.engine.adapter.model import padded
from guardrail.errors import GuardrailError
from guardrail.training.adapter_batches import Shape, passes, steps_of_epoch
from guardrail.training.adapter_noise import NOISES, noisy
from guardrail.training.adapter_rows import AdapterRow, read_data
from guardrail.training.adapter_thresholds import Choice, Known, Target, choose, measures, threshold_for
from guardrail.units import held_out

WORDS = st.text(string.ascii_letters + " .,!?'0123456789\n", min_size=1, max_size=80).filter(str.strip)


def written(folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> Path:
    path = folder / name
    lines = "\n".join(map(json.dumps, rows)).encode()
    path.write_bytes(gzip.compress(lines) if name.endswith(".gz") else lines)
    return path


def everything(data: Any) -> list[AdapterRow]:
    return [*data.learnt, *data.calibrating, *data.reported]


def plenty(category: str = "tools", count: int = 40) -> list[dict[str, Any]]:
    return [{"text": f"text {number}", "labels": {category: number % 2}} for number in range(count)]


def test_both_schemas_say_what_is_known_and_no_more(tmp_path: Path) -> None:
    own = [*plenty(), {"text": "own", "labels": {"tools": 1, "animals": None}}, {"text": "nothing", "labels": {"tools": None}}]
    measured = [
        {"text": "area", "area": "animals", "label": 1, "meta": {"unit": "u"}},
        {"text": "other", "area": "animals", "label": 0, "labels": ["finer"]},
        {"text": "calm", "area": "benign", "label": 0},
        {"text": "any", "area": "general_harm", "label": 1},
        *({"text": f"cat {number}", "area": "animals", "label": number % 2} for number in range(20)),
    ]
    data = read_data([written(tmp_path, own), written(tmp_path, measured, "set.jsonl.gz")])
    assert data.categories == ("animals", "tools")
    known = {row.text: dict(row.labels) for row in everything(data)}
    assert known["own"] == {"tools": 1}
    assert (known["area"], known["other"]) == ({"animals": 1}, {"animals": 0})
    assert known["calm"] == {"animals": 0, "tools": 0}
    assert {"nothing", "any"} & set(known) == set()
    assert data.unlabelled == 2
    assert {row.unit for row in everything(data) if row.text == "area"} == {"set:u"}


def test_one_text_is_one_row_disagreement_is_unknown_and_units_that_share_it_are_one(tmp_path: Path) -> None:
    shared = [
        {"text": "twice", "labels": {"tools": 1}, "unit": "a"},
        {"text": "twice", "labels": {"tools": 0, "animals": 1}, "unit": "b"},
        {"text": "of a", "labels": {"tools": 1}, "unit": "a"},
        {"text": "of b", "labels": {"tools": 1}, "unit": "b"},
    ]
    data = read_data([written(tmp_path, [*plenty(), *plenty("animals"), *shared])])
    rows = {row.text: row for row in everything(data)}
    assert dict(rows["twice"].labels) == {"animals": 1}
    assert rows["twice"].unit == rows["of a"].unit == rows["of b"].unit
    assert dict(rows["text 1"].labels) == {"tools": 1, "animals": 1}


def test_no_unit_is_in_two_parts_and_what_evaluation_holds_out_is_never_learnt(tmp_path: Path) -> None:
    rows = [{"text": f"row {number}", "labels": {"tools": number % 2}, "unit": f"u{number // 3}"} for number in range(900)]
    data = read_data([written(tmp_path, rows)])
    parts = [{row.unit for row in part} for part in (data.learnt, data.calibrating, data.reported)]
    assert not any(parts[one] & parts[other] for one, other in ((0, 1), (0, 2), (1, 2)))
    assert all(len(part) > 50 for part in (data.calibrating, data.reported))
    assert not any(held_out(row.unit) for row in (*data.learnt, *data.calibrating))
    again = read_data([written(tmp_path, rows[::-1])])
    assert {row.text for row in again.learnt} == {row.text for row in data.learnt}


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        ([{"labels": {"tools": 1}}], {}, "row 1: `text` must be a text"),
        ([{"text": "x", "labels": {"tools": 2}}], {}, "row 1: a label is 1, 0, or null"),
        ([{"text": "x", "labels": {"tools": True}}], {}, "row 1: a label is 1, 0, or null"),
        ([{"text": "x"}], {}, "no row names a category"),
        ([{"text": "x", "labels": {"tools": 1}}], {}, "no text with label 0 of 'tools'"),
        (plenty(), {"categories": ["Tools", "plants"]}, "no text with label 1 of 'plants'"),
        (plenty(), {"categories": ["Tools", "tools"]}, "two categories have the same name"),
    ],
)
def test_data_that_cannot_be_learnt_from_is_refused(tmp_path: Path, rows: list[dict[str, Any]], options: dict[str, Any], said: str) -> None:
    with pytest.raises(GuardrailError, match=said):
        read_data([written(tmp_path, rows)], **options)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{")
    (tmp_path / "b.jsonl.gz").write_text("no gzip")
    for name in ("a.jsonl", "b.jsonl.gz"):
        with pytest.raises(GuardrailError, match=name):
            read_data([tmp_path / name])


@given(WORDS, st.integers(0, 5), st.floats(0, 1))
def test_noise_changes_the_surface_and_not_the_words(text: str, seed: int, rate: float) -> None:
    changed = noisy(text, f"{seed}:0", rate)
    assert changed == noisy(text, f"{seed}:0", rate)
    assert [c for c in changed.casefold() if c.isalnum()] == [c for c in text.casefold() if c.isalnum()]


def test_noise_is_symmetric() -> None:
    """Violating and benign texts are changed equally often, and get a kind of noise equally often."""
    chance = random.Random(3)
    texts = [" ".join(chance.choices(["the", "cat", "library", "opens", "at", "nine"], k=8)) + f" {number}" for number in range(6000)]
    labels = [chance.random() < 0.3 for _ in texts]
    changed = [noisy(text, "1:0", 0.3) != text for text in texts]
    shares = [np.mean([changed[place] for place in range(len(texts)) if labels[place] is label]) for label in (True, False)]
    assert shares[0] == pytest.approx(shares[1], abs=0.03)
    assert 0.25 < shares[1] < 0.31
    ended = [noisy(text, "1:0", 1.0).endswith("\n") for text in texts]
    shares = [np.mean([ended[place] for place in range(len(texts)) if labels[place] is label]) for label in (True, False)]
    assert shares[0] == pytest.approx(shares[1], abs=0.03)
    assert all(any(change("The cat sat.", random.Random(n)) != "The cat sat." for n in range(9)) for change in NOISES.values())


@given(st.lists(st.integers(1, 300), min_size=1, max_size=120), st.integers(1, 20), st.integers(32, 600))
def test_every_text_is_in_one_step_and_one_pass_that_is_not_too_large(lengths: list[int], batch: int, tokens: int) -> None:
    shape = Shape(batch, tokens)
    steps = steps_of_epoch(lengths, shape, "1:0")
    assert sorted(place for step in steps for place in step) == list(range(len(lengths)))
    assert all(len(step) <= batch for step in steps)
    assert steps == steps_of_epoch(lengths, shape, "1:0")
    for step in steps:
        groups = passes([lengths[place] for place in step], shape)
        assert sorted(place for group in groups for place in group) == list(range(len(step)))
        for group in groups:
            longest = padded(max(lengths[step[place]] for place in group))
            assert len(group) == 1 or longest * len(group) <= tokens


def known(scores: list[float], labels: list[int]) -> Known:
    return Known(np.array(scores), np.array(labels), tuple(f"u{place}" for place in range(len(scores))))


SCORED = st.lists(st.tuples(st.sampled_from([place / 20 for place in range(1, 20)]), st.integers(0, 1)), min_size=2, max_size=40).filter(
    lambda pairs: len({label for _, label in pairs}) == 2
)


@given(SCORED)
def test_no_threshold_has_a_higher_f1_than_the_chosen_one(pairs: list[tuple[float, int]]) -> None:
    found = known([score for score, _ in pairs], [label for _, label in pairs])
    chosen = threshold_for(found, Target())
    assert chosen is not None
    best = max(float(measures(found, level)["f1"] or 0) for level in {score for score, _ in pairs})
    assert measures(found, chosen)["f1"] == pytest.approx(best)


@given(SCORED, st.sampled_from([0.0, 0.1, 0.5]))
def test_a_bound_on_false_flags_holds_and_nothing_within_it_recalls_more(pairs: list[tuple[float, int]], bound: float) -> None:
    found = known([score for score, _ in pairs], [label for _, label in pairs])
    chosen = threshold_for(found, Target(bound))
    within = [measures(found, level) for level in {score for score, _ in pairs} if float(measures(found, level)["fpr"] or 0) <= bound]
    best = max((float(each["recall"] or 0) for each in within), default=0.0)
    if chosen is None:
        assert best == 0.0
    else:
        assert float(measures(found, chosen)["fpr"] or 0) <= bound
        assert measures(found, chosen)["recall"] == best


def test_what_cannot_be_chosen_stays_at_a_half_and_says_why() -> None:
    assert choose(known([0.2, 0.3], [1, 1]), Target()) == Choice(why=choose(known([0.2, 0.3], [1, 1]), Target()).why)
    assert "do not have both labels" in choose(known([0.2, 0.3], [1, 1]), Target()).why
    turned = choose(known([0.9, 0.8, 0.1, 0.2], [0, 0, 1, 1]), Target(0.0))
    assert turned.threshold == 0.5
    assert "no threshold flags" in turned.why
    for text in ("f2", "fpr=2", "fpr=x", "fpr"):
        with pytest.raises(GuardrailError, match="there is no target"):
            Target.parse(text)
    assert (Target.parse("f1"), Target.parse("fpr=0.01")) == (Target(), Target(0.01))


def test_auc_counts_ties_half() -> None:
    assert measures(known([0.1, 0.5, 0.5, 0.9], [0, 0, 1, 1]), 0.5)["auc"] == 0.875
