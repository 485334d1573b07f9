"""From predictions to reports: the numbers, the files of `guardrail evaluate run`, and no text in any of them unless it is asked for."""

import json
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from guardrail.cli.evaluate_run import run
from guardrail.errors import GuardrailError
from guardrail.evaluation.bells import COLUMNS
from guardrail.evaluation.dataset import DataSet, Item
from guardrail.evaluation.predictions import Prediction
from guardrail.evaluation.run import ANY, Plan
from guardrail.evaluation.summary import Summary, summarise
from guardrail.policy.document import read
from guardrail.policy.registry import shipped_folder
from guardrail.testing import ScriptedClassifier, contains, policy
from guardrail.types import Stage

HATE, ATTACK = policy("hate_speech"), policy("prompt_attack")
SECRET = "marmalade"


def factory(_: object) -> ScriptedClassifier:
    """What the command line opens by its import string."""
    return ScriptedClassifier({"violence": contains("attack", score=0.8), "*": 0.01}, id="scripted@1/x")


def item(name: str, label: int, area: str = "hate_speech", *sub_labels: str) -> Item:
    return Item(name, area, f"{SECRET} {name}", label, sub_labels, set="small")


def summary(scores: dict[str, tuple[Item, dict[str, float | None]]]) -> Summary:
    data = DataSet("small", "0" * 64, tuple(each for each, _ in scores.values()))
    plan = Plan((data,), (HATE, ATTACK), {})
    digests = {each.id: each.digest for each in plan.policies}
    found = [
        Prediction("small", each.id, name, digests[name], each.label, value, None if value is not None else "timeout", 0.05, 2, 1e9)
        for each, row in scores.values()
        for name, value in row.items()
    ]
    return summarise(plan, plan.info("scripted"), {each.key: each for each in found})


def test_a_text_of_all_policies_counts_once_and_its_strongest_score_ranks() -> None:
    found = summary(
        {
            "a": (item("a", 1, "general_harm"), {"hate_speech": 0.2, "prompt_attack": 0.9}),
            "b": (item("b", 0, "general_harm"), {"hate_speech": 0.6, "prompt_attack": 0.1}),
            "c": (item("c", 1), {"hate_speech": 0.4}),
        }
    )
    any_row, hate_row = found.rows
    assert (any_row.policy, any_row.quality.rows, any_row.quality.flagged, any_row.quality.auc) == (ANY, 2, 1.0, 1.0)
    assert (hate_row.policy, hate_row.quality.recall) == ("hate_speech", 0.0)
    # That a text violates something does not say that it violates this: it is in no policy's pool. A clean one is in each.
    assert {name: (each.curve.positives, each.curve.negatives) for name, each in found.pooled.items()} == {
        ("hate_speech", Stage.INPUT): (1, 1),
        ("prompt_attack", Stage.INPUT): (0, 1),
    }


def test_what_was_not_judged_is_counted_and_nothing_else() -> None:
    found = summary({"a": (item("a", 1), {"hate_speech": 0.9}), "b": (item("b", 1), {"hate_speech": None})})
    assert (found.rows[0].failed, found.rows[0].quality.rows, found.rows[0].quality.recall) == (1, 1, 1.0)


def test_detection_is_told_by_finer_label() -> None:
    rows = {str(place): (item(str(place), 1, "hate_speech", "plain"), {"hate_speech": 0.9 if place < 6 else 0.1}) for place in range(8)}
    rows["few"] = (item("few", 1, "hate_speech", "rare"), {"hate_speech": 0.9})
    (found,) = summary(rows).rows[0].sub_labels
    assert (found.name, found.caught, found.missed, found.detection) == ("plain", 6, 2, 0.75)


def test_a_calls_time_is_waited_by_all_and_shared_in_the_pace() -> None:
    found = summary({name: (item(name, 1), {"hate_speech": 0.9}) for name in "abcd"}).latency  # two calls of two, 50 ms each
    assert (found.p50_ms, found.p99_ms) == (50, 50)
    assert found.items_per_second == pytest.approx(40)


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    path = tmp_path / "own.jsonl"
    texts = [f"an attack with {SECRET} number {place}" for place in range(6)] + [
        f"a walk with {SECRET} number {place}" for place in range(6)
    ]
    rows = [{"id": f"row/{place}", "text": text, "label": int(place in (0, 1, 2, 3, 4, 6))} for place, text in enumerate(texts)]
    path.write_text("".join(json.dumps({**row, "area": "violence", "labels": ["walk"]}) + "\n" for row in rows))
    return path


def judge(sheet: Path, *more: str) -> Result:
    command = ["--data", str(sheet), "--classifier", f"{__name__}:factory", "--out", str(sheet.parent / "out"), *more]
    return CliRunner().invoke(run, command, catch_exceptions=False)


class Balance(HTMLParser):
    """Notes what is fetched from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "xlink:href")] + [tag] * (tag == "script")


def test_the_reports_of_a_run_hold_numbers_and_ids_and_no_text(sheet: Path) -> None:
    said = judge(sheet, "--bells-o")
    assert said.exit_code == 0
    out = sheet.parent / "out"
    (row,) = json.loads((out / "results.json").read_text())["rows"]
    assert row["quality"]["precision"] == row["quality"]["recall"] == pytest.approx(5 / 6)
    assert {each["item"] for each in row["worst"]} == {"row/5", "row/6"}
    assert "| own/violence | violence | 12 | 6 | 0.833 |" in (out / "report.md").read_text()
    page = Balance()
    page.feed((out / "report.html").read_text())
    assert page.fetched == []
    assert "row/5" in (out / "report.html").read_text()
    assert not [path for path in out.rglob("*") if path.is_file() and SECRET in path.read_text()]


def test_what_others_published_is_marked_and_only_for_its_set(sheet: Path) -> None:
    judge(sheet)
    assert "Published elsewhere" not in (sheet.parent / "out" / "report.md").read_text()
    ethos = sheet.parent / "ethos.jsonl"
    ethos.write_text(sheet.read_text())
    judge(ethos, "--out", str(sheet.parent / "ethos"))
    for name in ("report.md", "report.html"):
        told = (sheet.parent / "ethos" / name).read_text()
        assert "Published elsewhere" in told
        assert "not measured here" in told
        assert "CoPE-A-9B" in told
        assert "ToxicChat" not in told


def test_bells_o_has_a_file_a_text_and_a_row_a_task(sheet: Path) -> None:
    judge(sheet, "--bells-o", "--show-text")
    out = sheet.parent / "out"
    documents = [json.loads(path.read_text()) for path in (out / "bells-o" / "guardrail" / "own").rglob("*.json")]
    by_id = {each["metadata"]["prompt_id"]: each for each in documents}
    assert len(documents) == len(by_id) == 12
    false = by_id["row/5"]
    assert (false["output_result"], false["target_result"], false["is_correct"]) == (
        {"content_moderation": True},
        {"content_moderation": False},
        False,
    )
    assert SECRET in false["metadata"]["prompt"]
    assert SECRET in (out / "report.html").read_text()
    head, row = (line.split("\t") for line in (out / "bells-o-content_moderation.tsv").read_text().splitlines())
    assert tuple(head) == COLUMNS
    told = dict(zip(head, row, strict=True))
    assert (told["Detection Rate (%)"], told["FPR (%)"], told["Model Snapshot"]) == ("83.33", "16.67", "scripted@1/x")


def test_a_threshold_is_written_into_the_policys_file_and_a_second_report_uses_it(sheet: Path) -> None:
    own = sheet.parent / "violence.md"
    shutil.copy(shipped_folder() / "violence.md", own)
    before = read(own)
    said = judge(sheet, "--policy", str(own), "--write-thresholds", "recall=0.9")
    assert said.exit_code == 0
    after = read(own)
    assert after == replace(before, threshold=after.threshold, output_threshold=before.threshold_at(Stage.OUTPUT))  # no answers measured
    assert 0 < after.threshold <= 0.01
    assert f"threshold {before.threshold:g} -> {after.threshold:g} for prompts" in said.stderr
    assert "12 of 12 texts judged, 12 of them before" in judge(sheet, "--policy", str(own)).stderr
    assert json.loads((sheet.parent / "out" / "results.json").read_text())["rows"][0]["quality"]["recall"] == 1.0


def test_thresholds_are_written_into_named_files_alone(sheet: Path) -> None:
    with pytest.raises(GuardrailError, match="name each policy by its file"):
        judge(sheet, "--policy", "violence", "--write-thresholds", "f1")
    assert not (sheet.parent / "out").exists()
