"""What `guardrail evaluate run` is asked for and does not have is named, with what there is."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from guardrail.cli.evaluate_run import run
from guardrail.errors import GuardrailError

ROW = '{"text": "a kind word", "label": 0, "area": "violence"}\n'


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--policy", "cooking"], "no shipped policy 'cooking'; there are: harassment"),
        (["--classifier", "cooking"], "no classifier 'cooking'"),
        (["--data", "cooking"], "set GUARDRAIL_DATA"),
        (["--data", "cooking.csv"], "cooking.csv: there is no such set"),
        (["--policy", "policies/violence.md", "--write-thresholds", "luck"], "no target 'luck'; use f1"),
        (["--classifier", "other.safetensors"], "other.safetensors: cannot be read as an embedded model"),
        (["--classifier", "cooking", "--config", "guardrail.yaml"], "guardrail.yaml has no classifier 'cooking'; there are: mine"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], says: str) -> None:
    monkeypatch.delenv("GUARDRAIL_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("own.jsonl").write_text(ROW)
    Path("guardrail.yaml").write_text("classifiers:\n  mine: {kind: embedded}\n")
    with pytest.raises(GuardrailError) as refused:
        CliRunner().invoke(run, ["--data", "own.jsonl", "--out", "out", *options], catch_exceptions=False)
    assert says in str(refused.value)


def test_an_area_is_given_with_its_policy(tmp_path: Path) -> None:
    said = CliRunner().invoke(run, ["--data", "own.jsonl", "--out", str(tmp_path), "--area", "violence"])
    assert said.exit_code == 2
    assert "write AREA=POLICY" in said.output
