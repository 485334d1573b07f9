"""The shipped model on labelled data, at the shipped thresholds. Needs the evaluation data, which is no part of the product."""

import os
from pathlib import Path

import pytest

from guardrail.classifiers.embedded import EmbeddedClassifier
from guardrail.evaluation import benchmark
from guardrail.evaluation.benchmark import ANY, BENIGN, TASKS, pooled_flag_rate, score_tasks
from guardrail.policy.registry import load_folder, shipped_folder

DATA = Path(os.environ.get("GUARDRAIL_DATA") or Path(__file__).parents[3] / "shared" / "data")
BARS = {"ethos": 0.80, "surge_toxicity": 0.85}

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not (DATA / "SETS.json").exists(), reason=f"no labelled data at {DATA}; set GUARDRAIL_DATA"),
]


async def test_the_first_bars_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = tuple(task for task in TASKS if task.set in BARS or (task.set in BENIGN and task.policy == ANY))
    monkeypatch.setattr(benchmark, "TASKS", wanted)
    policies = load_folder(shipped_folder())
    thresholds = {policy.id: policy.threshold for policy in policies}
    model = EmbeddedClassifier.load(threads=2)
    lines = [scored.line(thresholds) async for scored in score_tasks(model, policies, DATA)]
    await model.aclose()
    aucs = {line.task.set: line.quality.auc for line in lines if line.task.set in BARS}
    assert all(aucs[name] >= bar for name, bar in BARS.items()), aucs
    assert pooled_flag_rate(lines)[0] <= 0.03
