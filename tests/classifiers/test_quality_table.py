"""The quality table: read from labelled files, scored once for each text and policy, and honest about what it cannot say."""

import gzip
import json
from pathlib import Path

import pytest

from guardrail.errors import ClassifierError
from guardrail.evaluation import benchmark
from guardrail.evaluation.benchmark import ANY, Task, markdown, pooled_flag_rate, score_tasks
from guardrail.evaluation.dataset import read_set
from guardrail.evaluation.metrics import quality
from guardrail.testing import ScriptedClassifier, contains, policy

POLICIES = (policy("hate_speech", body="h"), policy("violence", body="v"))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    sets = {
        "ethos": [("a bad text", 1), ("a bad joke", 0), ("a fine text", 0), ("unknown", None)],
        "gsm8k_test": [("one", 0), ("two", 0), ("a bad sum", 0), ("four", 0)],
    }
    for name, rows in sets.items():
        area = "hate_speech" if name == "ethos" else "benign"
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as lines:
            for number, (text, label) in enumerate(rows):
                lines.write(json.dumps({"id": f"{name}-{number}", "area": area, "text": text, "label": label}) + "\n")
    monkeypatch.setattr(benchmark, "TASKS", (Task("ethos", "hate_speech", "hate_speech"), Task("gsm8k_test", "benign", ANY)))
    return tmp_path


async def test_the_table_counts_what_thresholds_flag(data: Path) -> None:
    classifier = ScriptedClassifier({"hate_speech": contains("bad"), "violence": 0.1})
    lines = [scored.line({"hate_speech": 0.5, "violence": 0.5}) async for scored in score_tasks(classifier, POLICIES, data)]
    hate, benign = (line.quality for line in lines)
    assert (hate.rows, hate.positives, hate.precision, hate.recall, hate.auc) == (3, 1, 0.5, 1.0, 0.75)
    assert (benign.auc, benign.flagged, benign.false_positive_rate) == (None, 0.25, 0.25)
    assert pooled_flag_rate(lines) == (0.25, 4)
    assert len(classifier.requests) == 3 + 8
    table = markdown(lines)
    assert "| ethos | hate_speech | hate_speech | 3 | 1 | 0.750 |" in table
    assert "25.00% of 4 texts flagged" in table


async def test_a_text_that_could_not_be_scored_stops_the_table(data: Path) -> None:
    classifier = ScriptedClassifier({"*": lambda _: ClassifierError("crash", "broken")})
    with pytest.raises(ClassifierError, match="broken"):
        [scored async for scored in score_tasks(classifier, POLICIES, data)]


async def test_a_limit_takes_texts_from_the_whole_set(data: Path) -> None:
    found = [scored async for scored in score_tasks(ScriptedClassifier(), POLICIES, data, limit=2)]
    assert [item.id for item in found[1].items] == ["gsm8k_test-0", "gsm8k_test-2"]


def test_a_missing_set_says_where_data_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="GUARDRAIL_DATA"):
        read_set(tmp_path, "ethos")


def test_f1_is_the_harmonic_mean() -> None:
    found = quality([0.9, 0.8, 0.3, 0.1], [1, 0, 1, 0], [True, True, False, False])
    assert (found.precision, found.recall, found.f1, found.auc) == (0.5, 0.5, 0.5, 0.75)
