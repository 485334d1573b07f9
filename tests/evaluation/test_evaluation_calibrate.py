"""A calibration is fitted on a run's scores, lies beside the weights that it is of, and is used from then on."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny import model_file

from guardrail.calibration import Platt, loads
from guardrail.classifiers.embedded import EmbeddedClassifier
from guardrail.cli import commands
from guardrail.errors import GuardrailError
from guardrail.evaluation.dataset import open_set
from guardrail.evaluation.run import Plan, evaluate
from guardrail.interfaces import Classifier
from guardrail.testing import ScriptedClassifier, policy

RUDE = policy("rude")


async def ran(folder: Path, classifier: Classifier) -> Path:
    """Of every four texts that score .9 one violates, of those that score .1 one in sixteen."""
    path = folder / "held.jsonl"
    rows = [{"text": f"{'high' if n % 2 else 'low'} {n}", "label": int(n % 8 == 1 or n % 32 == 0), "area": "rude"} for n in range(256)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    async for _ in evaluate(classifier, Plan((open_set(str(path), None),), (RUDE,), {}), folder / "run"):
        pass
    return folder / "run"


def scripted(name: str) -> ScriptedClassifier:
    return ScriptedClassifier({"rude": lambda text: 0.9 if text.startswith("high") else 0.1}, id=name)


async def test_it_is_fitted_on_the_runs_scores_and_printed(tmp_path: Path) -> None:
    run = await ran(tmp_path, scripted("cope@sha256:abc"))
    told = CliRunner().invoke(commands, ["evaluate", "calibrate", str(run), "--method", "platt"])
    assert told.exit_code == 0, told.output
    stored = loads(told.stdout)
    assert isinstance(stored.calibration, Platt)
    assert stored.calibration.apply(0.9) == pytest.approx(0.25, abs=0.01)
    assert stored.calibration.apply(0.1) == pytest.approx(1 / 16, abs=0.01)
    assert (stored.weights, stored.notes["rows"], stored.notes["units"]) == ("sha256:abc", "256", "256")
    assert "platt over 256 judgements of 256 units; on unseen units log loss" in told.stderr


async def test_beside_the_weights_it_is_used_and_not_fitted_twice(tmp_path: Path) -> None:
    weights = model_file(tmp_path)
    plain = EmbeddedClassifier.load(weights, precision="float32")
    run = await ran(tmp_path, scripted(plain.id))
    await plain.aclose()
    told = CliRunner().invoke(commands, ["evaluate", "calibrate", str(run), "--weights", str(weights)])
    assert told.exit_code == 0, told.output
    calibrated = EmbeddedClassifier.load(weights, precision="float32")
    await calibrated.aclose()
    assert calibrated.id.startswith(plain.id + "+calibration@sha256:")
    (tmp_path / "again").mkdir()
    again = await ran(tmp_path / "again", scripted(calibrated.id))
    refused = CliRunner().invoke(commands, ["evaluate", "calibrate", str(again)])
    assert isinstance(refused.exception, GuardrailError)
    assert "calibrated already" in str(refused.exception)


async def test_a_classifier_that_reads_no_calibration_is_refused(tmp_path: Path) -> None:
    run = await ran(tmp_path, scripted("keywords@sha256:abc"))
    refused = CliRunner().invoke(commands, ["evaluate", "calibrate", str(run)])
    assert isinstance(refused.exception, GuardrailError)
    assert "only embedded and CoPE classifiers" in str(refused.exception)


async def test_texts_whose_label_is_about_no_single_policy_teach_nothing_but_that_they_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / "held.jsonl"
    labelled = [("high", 1, "rude"), ("low", 0, "rude")] * 4 + [("high", 1, "benign"), ("low", 0, "benign")]
    path.write_text("".join(json.dumps({"text": text, "label": label, "area": area}) + "\n" for text, label, area in labelled))
    plan = Plan((open_set(str(path), None),), (RUDE, policy("loud")), {})
    async for _ in evaluate(scripted("cope@sha256:abc"), plan, tmp_path / "run"):
        pass
    told = CliRunner().invoke(commands, ["evaluate", "calibrate", str(tmp_path / "run")])
    assert loads(told.stdout).notes["rows"] == "10"  # eight about one policy, and the harmless one under both
