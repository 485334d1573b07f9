"""Thresholds chosen together keep the budget, beat what each policy alone would take, and are measured on units they have not seen."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail.cli.evaluate_card import card_command
from guardrail.cli.evaluate_thresholds import thresholds as command
from guardrail.errors import GuardrailError
from guardrail.evaluation.joint import GRID, Sheet, choose, cross_fitted, f1, flags
from guardrail.evaluation.joint_report import joint, markdown
from guardrail.policy.document import read
from guardrail.policy.registry import shipped_folder
from guardrail.policy.writer import with_threshold
from guardrail.types import Stage

SCORES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=40)


def sheet(name: str, rows: list[tuple[float, float, int]], *, limit: float | None = None, asked: str = "any") -> Sheet:
    units = tuple(f"{name}:{number}" for number in range(len(rows)))
    scores = np.array([row[:2] for row in rows], float).reshape(-1, 2)
    return Sheet(name, asked, scores, np.array([row[2] for row in rows], np.int64), units, limit=limit)


@settings(deadline=None, max_examples=40)
@given(SCORES, SCORES, st.sampled_from([0.0, 0.1, 0.5]))
def test_a_budget_is_kept_wherever_it_can_be(
    labelled: list[tuple[float, float, int]], calm: list[tuple[float, float, int]], budget: float
) -> None:
    goals = [sheet("labelled", labelled), sheet("calm", calm, limit=budget)]
    found = choose(goals, np.array([0.5, 0.5]))
    unavoidable = float(flags(goals[1], np.array([1.0, 1.0])).mean())
    assert flags(goals[1], found).mean() <= max(budget, unavoidable) + 1e-9


@settings(deadline=None, max_examples=40)
@given(SCORES)
def test_without_a_budget_one_policys_threshold_is_the_best_there_is(rows: list[tuple[float, float, int]]) -> None:
    one = sheet("labelled", [(first, -1.0, label) for first, _, label in rows], asked="first")
    found = choose([one], np.array([0.5, 0.7]))
    best = max(f1(flags(one, np.array([value, 1.0])), one.labels) for value in GRID)
    assert f1(flags(one, found), one.labels) == pytest.approx(best)
    assert found[1] == 0.7  # nothing was asked of it


def test_a_floor_is_kept_and_nothing_is_fitted_to_it() -> None:
    # At 0.6 the policy finds one of its own four texts and could find all; of the others two, as many as it ever will.
    own = sheet("own", [(0.7, -1, 1)] + [(0.3, -1, 1)] * 3 + [(0.1, -1, 0)] * 4, asked="first")
    every = sheet("every", [(0.9, 0.1, 1), (0.8, 0.1, 1), (0.65, 0.1, 0)] + [(0.2, 0.1, 0)] * 3)
    now = np.array([0.6, 0.5])
    sought = choose([own, every], now)
    kept = choose([replace(own, floor=True), every], now)
    free = choose([every], now)
    assert sought[0] <= 0.3
    assert 0.3 < kept[0] <= 0.7
    assert f1(flags(own, kept), own.labels) == pytest.approx(0.4)
    assert free[0] > 0.65


@settings(deadline=None, max_examples=40)
@given(SCORES, SCORES, st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)))
def test_asked_for_lower_ones_no_threshold_rises(
    labelled: list[tuple[float, float, int]], calm: list[tuple[float, float, int]], now: tuple[float, float]
) -> None:
    goals = [sheet("labelled", labelled), sheet("calm", calm, limit=0.1)]
    assert (choose(goals, np.array(now), highest=np.array(now)) <= np.array(now)).all()
    _, chosen = cross_fitted(goals, np.array(now), 2, highest=np.array(now))
    assert (chosen <= np.array(now)).all()


def test_asked_for_lower_ones_no_budget_is_counted_on_that_only_a_higher_one_would_give() -> None:
    # The first policy flags the one harmless text that the budget allows; were it higher, the second could be lower.
    labelled = sheet("labelled", [(0.1, 0.5, 1)] * 8 + [(0.1, 0.1, 0)] * 8)
    calm = sheet("calm", [(0.6, 0.1, 0), (0.1, 0.5, 0)] + [(0.1, 0.1, 0)] * 8, limit=0.1)
    now = np.array([0.55, 0.9])
    assert flags(calm, choose([labelled, calm], now)).mean() == 0.1
    assert choose([labelled, calm], now)[1] <= 0.5
    assert flags(calm, choose([labelled, calm], now, highest=now)).mean() == 0.1
    assert choose([labelled, calm], now, highest=now)[1] > 0.5


def test_the_budget_goes_where_it_buys_most() -> None:
    # The first policy could catch one more text for one false flag, the second nine more.
    first = sheet("first", [(0.9, -1, 1)] * 9 + [(0.5, -1, 1)] + [(0.1, -1, 0)] * 10, asked="first")
    second = sheet("second", [(-1, 0.9, 1)] + [(-1, 0.5, 1)] * 9 + [(-1, 0.1, 0)] * 10, asked="second")
    calm = sheet("calm", [(0.6, 0.1, 0), (0.1, 0.6, 0)] + [(0.1, 0.1, 0)] * 8, limit=0.1)
    found = choose([first, second, calm], np.array([0.3, 0.3]))
    assert found[0] > 0.6
    assert found[1] <= 0.5


def test_what_is_said_of_unseen_units_is_not_what_was_fitted() -> None:
    draws = np.random.default_rng(3)
    noise = [(float(score), -1.0, int(label)) for score, label in zip(draws.random(60), draws.integers(0, 2, 60), strict=True)]
    goals = [sheet("noise", noise, asked="first"), sheet("calm", [(0.2, 0.2, 0)] * 5, limit=0.5)]
    found = joint(goals, {"first": 0.5, "second": 0.5}, folds=5)
    (effect, limit) = found.effects
    assert effect.crossed <= effect.proposed
    assert found.mean_f1[1] >= found.mean_f1[0]
    assert limit.limited
    assert found.kept
    low, high = found.spread["first"]
    assert low <= high
    assert "| noise | first | 60 |" in markdown(found)
    cut, chosen = cross_fitted(goals, np.array([0.5, 0.5]), 5)
    assert (len(cut[0]), chosen.shape) == (60, (5, 2))


def test_no_threshold_rises_above_the_highest_unless_it_is_there_now() -> None:
    goals = [sheet("labelled", [(0.9, 0.9, 1), (0.1, 0.1, 0)] * 6), sheet("calm", [(0.96, 0.1, 0)] * 4, limit=0.1)]

    def first(now: float, **bounds: float) -> tuple[float, bool]:
        found = joint(goals, {"first": now, "second": 0.5}, folds=2, **bounds)  # type: ignore[arg-type]
        return found.proposed["first"], found.kept

    assert first(0.5)[0] > 0.96
    assert first(0.5, highest=0.95) <= (0.95, False)
    assert first(0.97, highest=0.95) == (0.97, True)
    assert first(0.5, highest=0.95, lower=True) <= (0.5, False)


def test_limits_that_cannot_be_kept_are_said() -> None:
    goals = [sheet("labelled", [(0.9, 0.9, 1), (0.1, 0.1, 0)] * 6), sheet("calm", [(1.0, 1.0, 0)] * 4, limit=0.1)]
    found = joint(goals, {"first": 0.5, "second": 0.5}, folds=2)
    assert not found.kept
    assert "No thresholds keep all limits" in markdown(found)


@pytest.fixture
def carded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a card over two small sets, judged by the keywords baseline."""
    sets = {
        "ethos": ("hate_speech", [("immigrants are vermin and disease, remove them", 1), ("the weather is mild", 0)] * 8),
        "gsm8k_test": ("benign", [("two and two", 0), ("a train leaves at noon", 0)] * 8),
    }
    for name, (area, rows) in sets.items():
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as lines:
            lines.writelines(
                json.dumps({"id": f"{number}", "text": f"{text} {number}", "label": label, "area": area}) + "\n"
                for number, (text, label) in enumerate(rows)
            )
    monkeypatch.setenv("GUARDRAIL_DATA", str(tmp_path))
    result = CliRunner().invoke(card_command, ["--sets", "ethos,gsm8k_test", "--classifier", "keywords", "--out", str(tmp_path / "card")])
    assert result.exit_code == 0, result.output
    return tmp_path / "card"


def test_the_command_proposes_from_stored_judgements_and_writes_into_policies(carded: Path, tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    policies.mkdir()
    for path in shipped_folder().glob("*.md"):
        (policies / path.name).write_bytes(path.read_bytes())
    result = CliRunner().invoke(command, [str(carded), "--budget", "0.1", "--folds", "2", "--write", str(policies)])
    assert result.exit_code == 0, result.output
    assert "| ethos/hate_speech | hate_speech | 16 | 0.78 |" in result.output
    assert "| benign sets together | all | 16 | 10.0% |" in result.output
    before, after = (shipped_folder() / "hate_speech.md").read_text(), (policies / "hate_speech.md").read_text()
    assert after == with_threshold(before, read(policies / "hate_speech.md").threshold, Stage.INPUT)
    assert read(policies / "hate_speech.md").threshold_at(Stage.OUTPUT) == read(shipped_folder() / "hate_speech.md").threshold_at(
        Stage.OUTPUT
    )
    told = json.loads(CliRunner().invoke(command, [str(carded), "--json"]).stdout)
    assert told["effects"][0]["proposed"] == 1.0


def test_a_card_of_other_data_is_refused(carded: Path, tmp_path: Path) -> None:
    with gzip.open(tmp_path / "ethos.jsonl.gz", "wt") as lines:
        lines.write(json.dumps({"id": "0", "text": "other", "label": 0, "area": "hate_speech"}) + "\n")
    result = CliRunner().invoke(command, [str(carded)])
    assert isinstance(result.exception, GuardrailError)
    assert "the data differed" in str(result.exception)
