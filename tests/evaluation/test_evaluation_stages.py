"""Answers are measured, compared and given thresholds as answers; prompts and posts as before."""

import gzip
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from guardrail.cli import commands
from guardrail.cli.evaluate_card import card_command
from guardrail.cli.evaluate_run import run
from guardrail.cli.evaluate_thresholds import thresholds
from guardrail.errors import GuardrailError
from guardrail.evaluation.card import Measured, card
from guardrail.evaluation.comparison import Run, compare
from guardrail.evaluation.comparison_report import markdown
from guardrail.evaluation.dataset import ANSWER, DataSet, Item, open_set
from guardrail.evaluation.evaluation_page import page
from guardrail.evaluation.evaluation_report import markdown as report
from guardrail.evaluation.evaluation_report import results
from guardrail.evaluation.predictions import PREDICTIONS, RUN, PolicyUsed, Prediction, RunInfo, read_run, thresholds_of
from guardrail.evaluation.run import Plan
from guardrail.evaluation.suite import Suite, Task
from guardrail.evaluation.summary import summarise
from guardrail.policy.document import read
from guardrail.policy.registry import shipped_folder
from guardrail.policy.writer import with_threshold
from guardrail.testing import ScriptedClassifier, policy
from guardrail.types import Policy, Stage

RUDE = policy("rude", threshold=0.8, output_threshold=0.4)
LOUD = policy("loud", threshold=0.5, output_threshold=0.9)


def factory(_: object) -> ScriptedClassifier:
    """What the command line opens by its import string: a text ends with its score under violence."""
    return ScriptedClassifier({"violence": lambda text: float(text.split()[-1]), "*": 0.01}, id="scripted@1/x")


def item(name: str, label: int, kind: str = "user_content", area: str = "rude") -> Item:
    return Item(name, area, f"text {name}", label, set="small", kind=kind)


def test_a_cards_answers_are_flagged_and_ranked_at_the_thresholds_of_answers() -> None:
    items = (item("a", 1), item("b", 1, ANSWER), item("c", 0, ANSWER), item("d", 0))
    scores = ({"rude": 0.6, "loud": 0.1}, {"rude": 0.6, "loud": 0.1}, {"rude": 0.1, "loud": 0.8}, {"rude": 0.1, "loud": 0.4})
    task, at = Task("small", "any", "any"), thresholds_of((RUDE, LOUD))
    measured = Measured(task, items, scores, 0)
    assert measured.flags(at) == [False, True, False, False]
    ranked = measured.pool(at).scores
    assert [score >= 0.5 for score in ranked] == [False, True, False, False]
    assert ranked[1] > max(ranked[0], ranked[2], ranked[3])
    (row,) = card(Suite((task,), (), {}), [measured], at)
    assert (row.quality.recall, row.quality.precision) == (0.5, 1.0)


def summary(policies: Sequence[Policy] = (RUDE,)):
    rows = [(item("a", 1), 0.6), (item("b", 0), 0.5), (item("c", 1, ANSWER), 0.6), (item("d", 0, ANSWER), 0.3)]
    plan = Plan((DataSet("small", "0" * 64, tuple(each for each, _ in rows)),), tuple(policies), {})
    found = [Prediction("small", each.id, "rude", RUDE.digest, each.label, score, None, 0.1, stage=each.stage) for each, score in rows]
    return summarise(plan, plan.info("scripted"), {each.key: each for each in found})


def test_a_runs_report_judges_and_proposes_for_each_stage() -> None:
    found = summary()
    assert {each.item.id: each.flagged for each in found.rows[0].judged} == {"a": False, "b": False, "c": True, "d": False}
    assert {key: pool.scores for key, pool in found.pooled.items()} == {
        ("rude", Stage.INPUT): (0.6, 0.5),
        ("rude", Stage.OUTPUT): (0.6, 0.3),
    }
    told = report(found)
    assert "rude 1.0.0 at 0.8, of answers 0.4" in told
    assert "| rude | 0.8 | f1 | 0.55 |" in told
    assert "| rude, answers | 0.4 | f1 | 0.45 |" in told
    assert "rude, answers" in page(found)
    proposed = results(found)["thresholds"]["rude"]  # type: ignore[index]
    assert [each["stage"] for each in proposed if each["target"] == "f1"] == ["input", "output"]


def sheet(path: Path, kind: str, scores: Sequence[tuple[float, int]]) -> Path:
    rows = [
        {"text": f"row {place} {score}", "label": label, "area": "violence", "kind": kind} for place, (score, label) in enumerate(scores)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(("kind", "stage"), [(ANSWER, Stage.OUTPUT), ("llm_prompt", Stage.INPUT)])
def test_a_proposal_is_written_for_the_stage_of_the_rows_alone(tmp_path: Path, kind: str, stage: Stage) -> None:
    own = tmp_path / "violence.md"
    shutil.copy(shipped_folder() / "violence.md", own)
    own.write_text(with_threshold(own.read_text(), 0.66, Stage.INPUT))
    own.write_text(with_threshold(own.read_text(), 0.55, Stage.OUTPUT))
    before = own.read_text()
    rows = sheet(tmp_path / "rows.jsonl", kind, [(0.2, 1), (0.1, 0)] * 6)
    command = ["--data", str(rows), "--classifier", f"{__name__}:factory", "--out", str(tmp_path / "out"), "--policy", str(own)]
    said = CliRunner().invoke(run, [*command, "--write-thresholds", "f1"], catch_exceptions=False)
    assert said.exit_code == 0, said.output
    assert own.read_text() == with_threshold(before, 0.15, stage)
    assert f"-> 0.15 for {'answers' if stage is Stage.OUTPUT else 'prompts'}" in said.stderr
    assert {each.stage for each in read_run(tmp_path / "out")[1].values()} == {stage}


@pytest.fixture
def carded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a card over prompts, harmless prompts, and answers that score lower."""
    sets = {
        "xstest": ("general_harm", "llm_prompt", [(0.95, 1), (0.3, 0)] * 8),
        "gsm8k_test": ("benign", "llm_prompt", [(0.2, 0), (0.1, 0)] * 8),
        "beavertails_test": ("general_harm", ANSWER, [(0.3, 1), (0.3, 1), (0.2, 0), (0.1, 0)] * 5 + [(0.4, 0)]),
    }
    for name, (area, kind, scores) in sets.items():
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as lines:
            lines.writelines(
                json.dumps({"text": f"{name} {place} {score}", "label": label, "area": area, "meta": {"kind": kind}}) + "\n"
                for place, (score, label) in enumerate(scores)
            )
    monkeypatch.setenv("GUARDRAIL_DATA", str(tmp_path))
    names = ["--sets", ",".join(sets), "--out", str(tmp_path / "card"), "--classifier", f"{__name__}:factory"]
    result = CliRunner().invoke(card_command, names)
    assert result.exit_code == 0, result.output
    return tmp_path / "card"


def chosen(carded: Path, *more: str) -> Result:
    return CliRunner().invoke(thresholds, [str(carded), "--folds", "2", *more])


def test_thresholds_of_answers_are_chosen_from_answers_within_a_budget_on_harmless_ones(carded: Path, tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    shutil.copytree(shipped_folder(), policies)
    said = chosen(carded, "--stage", "output", "--budget", "0.1", "--write", str(policies))
    assert said.exit_code == 0, said.output
    assert "| harmless answers together | all | 11 | 10.0% |" in said.output
    assert "gsm8k_test" not in said.output
    assert "xstest" not in said.output
    before, after = read(shipped_folder() / "violence.md"), read(policies / "violence.md")
    assert after.threshold == before.threshold
    assert 0.2 < after.threshold_at(Stage.OUTPUT) <= 0.3
    assert f"{policies / 'violence.md'}: threshold {before.threshold_at(Stage.OUTPUT):g} -> " in said.stderr
    (row,) = (line for line in said.output.splitlines() if line.startswith("| beavertails_test/"))
    f1, precision, recall, fpr = (float(cell) for cell in (row.split("|")[7], *row.split("|")[8:11]))
    assert f1 == pytest.approx(2 * precision * recall / (precision + recall), abs=0.002)
    assert fpr <= 0.2
    kept = json.loads(chosen(carded, "--stage", "output", "--budget", "0.1", "--lower", "--json").stdout)
    assert all(value <= kept["now"][name] for name, value in kept["proposed"].items())
    told = json.loads(chosen(carded, "--stage", "output", "--budget", "0", "--each", "0", "--json").stdout)
    assert told["proposed"]["violence"] > 0.4
    assert [(each["name"], each["limited"]) for each in told["effects"]] == [
        ("beavertails_test/general_harm", False),
        ("beavertails_test/general_harm", True),
        ("harmless answers together", True),
    ]


def test_harmless_prompts_may_limit_what_is_chosen_for_answers(carded: Path) -> None:
    def proposed(*more: str) -> float:
        said = chosen(carded, "--stage", "output", "--budget", "0.1", "--json", *more)
        return float(json.loads(said.stdout)["proposed"]["violence"])

    assert 0.2 < proposed() <= 0.3
    assert proposed("--prompts", "0.5") == proposed()
    assert (
        "| benign sets together | all | 16 | 50.0% |" in chosen(carded, "--stage", "output", "--prompts", "0.5", "--budget", "0.1").output
    )
    assert "--prompts is for --stage output" in chosen(carded, "--prompts", "0.5").output


def test_what_is_about_one_policy_alone_is_kept_and_not_fitted(carded: Path, tmp_path: Path) -> None:
    own = [{"text": f"own {place} {0.15 + place % 2 / 10}", "label": place % 2, "area": "violence", "kind": ANSWER} for place in range(20)]
    with gzip.open(tmp_path / "beavertails_test.jsonl.gz", "at") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in own)
    names = ["--sets", "beavertails_test", "--out", str(tmp_path / "again"), "--classifier", f"{__name__}:factory"]
    assert CliRunner().invoke(card_command, names).exit_code == 0
    told = json.loads(chosen(tmp_path / "again", "--stage", "output", "--budget", "0.1", "--json").stdout)
    (kept,) = (each for each in told["effects"] if each["asked"] == "violence")
    assert kept["now"] <= kept["proposed"]
    assert 0.25 < told["proposed"]["violence"] <= 0.3  # not where its own texts would have it
    nothing = chosen(tmp_path / "again", "--stage", "output", "--prompts", "0.1")
    assert "holds no harmless prompts" in str(nothing.exception)


def test_thresholds_of_prompts_are_chosen_without_answers(carded: Path) -> None:
    said = chosen(carded)
    assert said.exit_code == 0, said.output
    assert "beavertails" not in said.output
    nothing = chosen(carded, "--sets", "beavertails_test")
    assert "no set of prompts with both labels" in str(nothing.exception)
    assert "no set of answers with both labels" in str(chosen(carded, "--sets", "xstest", "--stage", "output").exception)


def predicted(stage: Stage | None, score: float, name: str = "a") -> Prediction:
    return Prediction("small", name, "rude", RUDE.digest, 1, score, None, 0.1, stage=stage)


def ran(*found: Prediction, policies: Sequence[Policy] = (RUDE,)) -> Run:
    return Run(RunInfo("scripted", tuple(map(PolicyUsed.of, policies)), ()), {each.key: each for each in found})


def test_two_runs_are_compared_at_the_threshold_of_what_their_texts_are() -> None:
    first = ran(predicted(Stage.INPUT, 0.6), predicted(Stage.OUTPUT, 0.6, "b"))
    found = compare(first, ran(predicted(None, 0.9), predicted(None, 0.9, "b")))  # one of the two says what they are
    assert {pair.item: (pair.first.flagged, pair.second.flagged) for pair in found.pairs} == {"a": (False, True), "b": (True, True)}
    assert [(each.stage, each.thresholds, each.only_second) for each in found.policies] == [
        (Stage.INPUT, (0.8, 0.8), 1),
        (Stage.OUTPUT, (0.4, 0.4), 0),
    ]
    assert "| rude, answers | 1 | 0.4 | 0.4 |" in markdown(found)


def test_runs_that_do_not_say_what_their_texts_are_are_compared_where_it_is_all_one_and_else_refused() -> None:
    plain = replace(RUDE, output_threshold=None)
    old = ran(predicted(None, 0.6), policies=(plain,))
    assert not compare(old, old).pairs[0].first.flagged
    with pytest.raises(GuardrailError, match="set GUARDRAIL_DATA"):
        compare(old, ran(predicted(None, 0.6)))


def test_the_command_learns_from_the_data_what_the_texts_of_an_older_run_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with gzip.open(tmp_path / "small.jsonl.gz", "wt") as lines:
        lines.write(json.dumps({"id": "a", "text": "x", "label": 1, "meta": {"kind": ANSWER}}) + "\n")
    used = {"name": "small", "sha256": open_set("small", tmp_path).sha256, "rows": 1}
    line = asdict(predicted(None, 0.6))
    del line["stage"]  # as earlier versions wrote it
    for name in ("A", "B"):
        (tmp_path / name).mkdir()
        (tmp_path / name / PREDICTIONS).write_text(json.dumps(line) + "\n")
        told = {"classifier": "scripted", "policies": [asdict(PolicyUsed.of(RUDE))], "sets": [used]}
        (tmp_path / name / RUN).write_text(json.dumps(told))
    command = ["evaluate", "compare", str(tmp_path / "A"), str(tmp_path / "B")]
    monkeypatch.delenv("GUARDRAIL_DATA", raising=False)
    assert "set GUARDRAIL_DATA" in str(CliRunner().invoke(commands, command).exception)
    monkeypatch.setenv("GUARDRAIL_DATA", str(tmp_path))
    said = CliRunner().invoke(commands, command, catch_exceptions=False)
    assert "| small | 1 | 1 | 0 | 0 | 0 |" in said.output  # both flag it, as an answer


def test_files_of_earlier_runs_are_read_and_a_stage_that_is_none_is_refused(tmp_path: Path) -> None:
    old = {"id": "rude", "version": "1.0.0", "digest": RUDE.digest, "threshold": 0.8}
    (tmp_path / RUN).write_text(json.dumps({"classifier": "x", "policies": [old], "sets": []}))
    line = {key: value for key, value in asdict(predicted(None, 0.6)).items() if key != "stage"}
    (tmp_path / PREDICTIONS).write_text(json.dumps(line) + "\n")
    info, found = read_run(tmp_path)
    assert info.thresholds() == {stage: {"rude": 0.8} for stage in Stage}
    assert [each.stage for each in found.values()] == [None]
    (tmp_path / PREDICTIONS).write_text(json.dumps({**line, "stage": "both"}) + "\n")
    with pytest.raises(GuardrailError, match=r":1: this is no prediction"):
        read_run(tmp_path)
