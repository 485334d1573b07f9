"""`guardrail train cope`: from triples to a folder that a `kind: cope` classifier serves, and what it says on the way."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny_checkpoints import tiny_base

from guardrail.cli import commands
from guardrail.errors import GuardrailError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a base and examples lie; commands run there."""
    tiny_base(tmp_path)
    rows = [{"policy": "Content about a garden.", "content": f"{text} {n}.", "label": label}
            for n in range(12) for text, label in (("The garden", 1), ("The train", 0))]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    every = ["train", "cope", "--base", "base", "--data", "rows.jsonl", "--output", "out", "--held-out", "4", "--device", "cpu"]
    small = ["--rank", "2", "--alpha", "4", "--tokens", "1024", "--accumulate", "1", "--steps", "2", "--threads", "1"]
    return CliRunner().invoke(commands, [*every, *small, *arguments], catch_exceptions=False)


def test_it_trains_merges_verifies_and_says_how_to_serve(folder: Path) -> None:
    result = run("--calibrate", "--outside", "1")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("2 steps, ")
    assert "tokens at " in lines[0]
    for line, step in zip(lines[1:3], (0, 2), strict=True):
        assert line.startswith("held out, ")
        assert f" examples, after {step} steps: accuracy 0." in line
    assert [line.split()[:2] for line in lines[3:8]] == [
        ["ok", f"{name}:"] for name in ("files", "template", "tokenizer", "weights", "scores")
    ]
    assert lines[8].endswith("Serve it: classifiers: {main: {kind: cope, model: out/model}}")
    assert (folder / "out" / "model" / "manifest.json").is_file()
    note = json.loads((folder / "out" / "training.json").read_text())
    assert (note["recipe"]["outside"], note["recipe"]["lora"]["rank"], note["recipe"]["steps"]) == (1.0, 2, 2)


def test_what_is_too_long_and_what_the_engine_would_refuse_is_said(folder: Path) -> None:
    with (folder / "rows.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"policy": "p", "content": "word " * 600, "label": 1}))
    result = run("--merge", "none", "--longest", "400", "--outside", "0")
    assert "1 examples are longer than 400 tokens; they were left out, not cut" in result.stderr
    assert "most of the probability lies on tokens that are no answer" in result.stderr
    assert result.stdout.splitlines()[-1].endswith("Next: guardrail model merge --base base --adapter out/adapter")


def test_a_bad_line_is_one_sentence_with_its_place(folder: Path) -> None:
    (folder / "rows.jsonl").write_text('{"policy": "p", "content": "c", "label": 3}\n')
    with pytest.raises(GuardrailError, match=r'^rows\.jsonl:1: "label" is 3; it is 1 where'):
        run()


def test_a_base_that_is_nowhere_is_said(folder: Path) -> None:
    with pytest.raises(GuardrailError, match="nowhere: there is no such folder"):
        run("--base", "nowhere")


def test_without_the_extra_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    for name in [name for name in sys.modules if name.startswith(("guardrail.training.", "guardrail.cli.train_cope"))]:
        monkeypatch.delitem(sys.modules, name)
    result = CliRunner().invoke(commands, ["train", "cope", "--help"])
    assert result.exit_code == 2
    assert "needs the Python module 'peft', which is not installed; run: pip install 'guardrail[cope]'" in result.stderr
