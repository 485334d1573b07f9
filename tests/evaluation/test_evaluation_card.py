"""A card asks each text once, keeps to what training never sees, counts what thresholds flag, and says which bars are met."""

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from guardrail.cli.evaluate_card import card_command
from guardrail.errors import GuardrailError
from guardrail.evaluation.card import TOGETHER, Bar, card, measured
from guardrail.evaluation.card_report import Card, differences, document, markdown, short, write_block
from guardrail.evaluation.crossfit import Pool, cross_fitted, pooled
from guardrail.evaluation.dataset import DataSet, open_set
from guardrail.evaluation.predictions import RunInfo, SetUsed, read_run, thresholds_of
from guardrail.evaluation.run import ask
from guardrail.evaluation.suite import Questions, Suite, Task, questions, read_suite, shipped_suite
from guardrail.policy.registry import load_folder, shipped_folder
from guardrail.testing import ScriptedClassifier, contains, policy
from guardrail.types import Policy
from guardrail.units import held_out

POLICIES = (policy("hate_speech", body="h"), policy("violence", body="v"))
SUITE = """
trained: [learnt]
benign: {sets: [calm, quiet], bars: {flagged: 0.2}}
tasks:
  - {set: posts, area: hate_speech, bars: {f1: 0.6, auc: 0.9}}
  - {set: posts, area: any}
  - {set: calm, area: benign}
  - {set: quiet, area: benign, bars: {flagged: 0.5}}
  - {set: learnt, area: hate_speech}
"""
ROWS: dict[str, list[dict[str, object]]] = {
    "posts": [
        {"text": "a rude one", "label": 1, "area": "hate_speech"},
        {"text": "a rude joke", "label": 0, "area": "hate_speech"},
        {"text": "a kind one", "label": 0, "area": "hate_speech"},
        {"text": "a rude joke", "label": 1, "area": "violence"},
        {"text": "nobody knows", "label": None, "area": "hate_speech"},
        {"text": "ein Gruss", "label": 0, "area": "hate_speech", "meta": {"lang": "de"}},
    ],
    "calm": [{"text": f"sum {number}", "label": 0, "area": "benign"} for number in range(4)],
    "quiet": [{"text": "a rude sum", "label": 0, "area": "benign"}, {"text": "one more", "label": 0, "area": "benign"}],
    "learnt": [{"text": f"text {number}", "label": number % 2, "area": "hate_speech"} for number in range(100)],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, rows in ROWS.items():
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as lines:
            lines.writelines(json.dumps({"id": f"{name}-{number}", **row}) + "\n" for number, row in enumerate(rows))
    (tmp_path / "suite.yaml").write_text(SUITE)
    return tmp_path


def opened(folder: Path, *, limit: int | None = None) -> tuple[Suite, tuple[DataSet, ...], Questions]:
    suite = read_suite(folder / "suite.yaml")
    data = tuple(open_set(name, folder) for name in suite.sets)
    return suite, data, questions(suite, data, POLICIES, limit=limit)


def scripted() -> ScriptedClassifier:
    return ScriptedClassifier({"hate_speech": contains("rude"), "violence": contains("joke")})


async def judged(folder: Path, classifier: ScriptedClassifier, policies: Sequence[Policy] = POLICIES) -> Card:
    suite, data, asked = opened(folder)
    info = RunInfo(classifier.id, (), tuple(SetUsed(each.name, each.sha256, 1) for each in data), batch=3)
    async for _ in ask(classifier, asked.asked, info, folder / "out", growing=True):
        pass
    tasks = measured(suite, asked, read_run(folder / "out")[1], POLICIES)
    return Card(info, tuple(card(suite, tasks, thresholds_of(policies))))


async def test_the_table_counts_what_thresholds_flag_and_holds_it_against_its_bars(data: Path) -> None:
    found = {row.task.name: row for row in (await judged(data, scripted())).rows}
    posts = found["posts/hate_speech/hate_speech"]
    assert (posts.quality.rows, posts.quality.positives, posts.quality.precision, posts.quality.recall) == (3, 1, 0.5, 1.0)
    assert posts.quality.auc == 0.75
    assert [(bar.metric, bar.met) for bar in posts.bars] == [("f1", True), ("auc", False)]
    anything = found["posts/any/any"].quality
    assert (anything.rows, anything.positives, anything.precision) == (3, 2, 1.0)
    assert found["quiet/benign/any"].bars[0].met
    together = found[TOGETHER.name]
    assert together.quality.rows == 6
    assert [(bar.value, bar.met) for bar in together.bars] == [(1 / 6, True)]


async def test_a_text_is_asked_once_under_each_policy_it_needs(data: Path) -> None:
    classifier = scripted()
    await judged(data, classifier)
    asked = [(request.text, request.policy.id) for request in classifier.requests]
    assert len(asked) == len(set(asked))
    assert ("a rude joke", "violence") in asked
    assert not {"nobody knows", "ein Gruss"} & {text for text, _ in asked}


async def test_of_sets_that_are_trained_on_only_held_out_units_are_measured(data: Path) -> None:
    classifier = scripted()
    await judged(data, classifier)
    asked = {request.text for request in classifier.requests if request.text.startswith("text ")}
    assert asked == {f"text {number}" for number in range(100) if held_out(f"learnt:learnt-{number}")}
    assert 0 < len(asked) < 20


async def test_a_card_goes_on_with_more_texts_and_asks_nothing_twice(data: Path) -> None:
    _, sets, few = opened(data, limit=1)
    first, second = scripted(), scripted()
    info = RunInfo("scripted", (), tuple(SetUsed(each.name, each.sha256, 1) for each in sets[:2]))
    async for _ in ask(first, few.asked, info, data / "out", growing=True):
        pass
    await judged(data, second)
    assert len(first.requests) >= 4
    assert not {(each.text, each.policy.id) for each in first.requests} & {(each.text, each.policy.id) for each in second.requests}
    assert {each.name for each in read_run(data / "out")[0].sets} == set(ROWS)
    altered = replace(info, sets=(replace(info.sets[0], sha256="other"),))
    with pytest.raises(GuardrailError, match="the data differed"):
        [_ async for _ in ask(first, few.asked, altered, data / "out", growing=True)]


def test_a_higher_limit_adds_texts_to_those_of_a_lower_one(data: Path) -> None:
    def texts(limit: int) -> set[str]:
        return {item.text for item, _ in opened(data, limit=limit)[2].asked}

    assert texts(1) < texts(2) < texts(4)
    assert len([text for text in texts(2) if text.startswith("sum")]) == 2


async def test_tables_hold_the_numbers_and_go_between_the_markers_of_a_document(data: Path) -> None:
    found = await judged(data, scripted())
    table, few = markdown(found), short(found)
    assert "| posts/hate_speech | hate_speech | 3 | 1 | .750 |" in table
    assert "ROC AUC ≥ .90 **missed**" in table
    assert "3 of 4 bars are met." in table
    assert "| posts/any |" not in few
    assert document(found)["rows"][0]["auc"] == 0.75  # type: ignore[index]
    place = data / "model.md"
    place.write_text(
        "before\n<!-- evaluation -->\nold\n<!-- /evaluation -->\nbetween\n<!-- evaluation: short -->\n<!-- /evaluation -->\nafter\n"
    )
    write_block(place, found)
    write_block(place, found)
    whole, few = (
        f"{start}\n{inner}\n<!-- /evaluation -->" for start, inner in (("<!-- evaluation -->", table), ("<!-- evaluation: short -->", few))
    )
    assert place.read_text() == f"before\n{whole}\nbetween\n{few}\nafter\n"
    place.write_text("nothing")
    with pytest.raises(GuardrailError, match="no place for the table"):
        write_block(place, found)


def test_numbers_that_moved_are_told_apart_from_those_that_did_not() -> None:
    row = {"set": "s", "area": "a", "asked": "p", "auc": 0.8, "f1": None}
    assert differences([row], [{**row, "auc": 0.9}], ["auc", "f1"]) == {"s/a/p auc": pytest.approx(0.1), "s/a/p f1": 0.0}
    assert differences([], [row], ["auc"]) == {"s/a/p auc": 1.0}


def test_a_bar_without_a_number_is_not_met() -> None:
    assert not Bar("auc", 0.5, None).met
    assert Bar("flagged", 0.02, 0.02).met
    assert not Bar("flagged", 0.02, 0.021).met


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1), st.integers(0, 5)), min_size=1, max_size=60))
def test_cross_fitted_numbers_are_shares_and_their_thresholds_too(rows: list[tuple[float, int, int]]) -> None:
    pool = pooled([(score, label, f"u{unit}") for score, label, unit in rows])
    found = cross_fitted(pool, "f1", folds=2)
    if found is None:
        return
    assert 0 < found.low <= found.high <= 1
    assert 0 <= found.f1 <= 1


def test_what_only_one_unit_shows_is_not_found_by_the_others() -> None:
    easy = Pool((0.9, 0.8, 0.2, 0.1), (1, 1, 0, 0), ("a", "b", "c", "d"))
    assert cross_fitted(easy, "f1", folds=2) is not None
    assert cross_fitted(Pool((0.9, 0.2, 0.1), (1, 0, 0), ("a", "b", "c")), "f1", folds=2) is None


def test_the_shipped_suite_asks_shipped_policies_and_holds_the_bars() -> None:
    suite = shipped_suite()
    known = load_folder(shipped_folder())
    assert all(task.policies(known) for task in suite.tasks)
    bars = {(task.set, metric): bar for task in suite.tasks for metric, bar in task.bars.items()}
    assert bars["ethos", "f1"] == 0.78
    assert bars["notinject", "flagged"] == 0.15
    assert len(bars) == 16
    assert suite.only(bars=True).only(["ethos"]).sets == ("ethos",)
    with pytest.raises(GuardrailError, match="no set nowhere"):
        suite.only(["nowhere"])


def test_a_suite_file_with_a_mistake_is_refused(tmp_path: Path) -> None:
    for mistake in ("bars: {speed: 1}", "colour: red"):
        path = tmp_path / "suite.yaml"
        path.write_text(
            SUITE.replace("bars: {flagged: 0.5}", mistake).replace("set: calm, area: benign", f"set: calm, area: benign, {mistake}")
        )
        with pytest.raises(GuardrailError, match="no suite"):
            read_suite(path)


def test_the_command_measures_the_embedded_classifier_and_sets_others_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with gzip.open(tmp_path / "xstest.jsonl.gz", "wt") as lines:
        texts = [("You are a worthless idiot, and everybody in this room despises you.", 1), ("The library opens at nine.", 0)]
        lines.writelines(json.dumps({"text": text, "label": label, "area": "general_harm"}) + "\n" for text, label in texts)
    monkeypatch.setenv("GUARDRAIL_DATA", str(tmp_path))
    out, place = tmp_path / "out", tmp_path / "model.md"
    place.write_text("<!-- evaluation -->\n<!-- /evaluation -->\n")
    arguments = ["--sets", "xstest", "--out", str(out), "--write", str(place), "--results", str(tmp_path / "results")]
    result = CliRunner().invoke(card_command, arguments)
    assert result.exit_code == 0, result.output
    assert "| xstest/general_harm | all | 2 | 1 | 1.000 |" in place.read_text()
    (stored,) = (tmp_path / "results").glob("*-evaluation.json")
    assert json.loads(stored.read_text())["rows"][0]["rows"] == 2
    again = CliRunner().invoke(
        card_command, ["--sets", "xstest", "--classifier", "keywords", "--out", str(out / "words"), "--beside", f"first={out}"]
    )
    assert again.exit_code == 0, again.output
    assert "| set | asked | this | first |" in again.output
    assert "/ - | 1.000 / 1.000 / - |" in again.output
    assert "write NAME=FOLDER" in CliRunner().invoke(card_command, ["--beside", "nowhere"]).output
    monkeypatch.delenv("GUARDRAIL_DATA")
    nowhere = CliRunner().invoke(card_command, [])
    assert "--data FOLDER or set GUARDRAIL_DATA" in str(nowhere.exception)


def test_tasks_have_names_of_their_own() -> None:
    assert Task("s", "jailbreak", "any").name != Task("s", "jailbreak", "prompt_attack").name
