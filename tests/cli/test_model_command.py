"""`guardrail model`: from a base and an adapter to a folder that is checked and described, and what it says when something is missing."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny_checkpoints import plain_checkpoint, tiny_adapter, tiny_base

from guardrail.cli import commands, main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a base and an adapter lie; commands run there, on a wide terminal."""
    tiny_base(tmp_path)
    tiny_adapter(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(commands, ["model", *arguments], catch_exceptions=False)


def merged() -> Result:
    return run("merge", "--base", "base", "--adapter", "adapter", "--output", "out")


def test_merge_says_what_changed_and_what_comes_next(folder: Path) -> None:
    result = merged()
    assert result.exit_code == 0
    table = [line.split() for line in result.stdout.splitlines() if "q_proj" in line]
    assert table == [["│", "q_proj", "│", "2", "│", "11.28%", "│", "1.48%", "│"]]
    assert "in bfloat16, sha256:" in result.stdout
    assert result.stdout.splitlines()[-1] == "Next: guardrail model verify out"


def test_verify_tells_each_check_and_how_far_scores_are(folder: Path) -> None:
    merged()
    result = run("verify", "out")
    assert result.exit_code == 0
    assert [line.split(":")[0].split() for line in result.stdout.splitlines()] == [
        ["ok", name] for name in ("files", "template", "tokenizer", "weights", "scores")
    ]
    assert "0 of 12 crossed one half; allowed 0.05 (mean 0.02)" in result.stdout


def test_verify_fails_with_status_1_and_goes_on(folder: Path) -> None:
    merged()
    (folder / "out" / "generation_config.json").write_text("{}")
    result = run("verify", "out", "--quick")
    assert result.exit_code == 1
    assert result.stdout.startswith("FAILED files: out/generation_config.json is not the file that was written")
    assert "ok     tokenizer" in result.stdout


def test_info_tells_shape_room_and_origin(folder: Path) -> None:
    merged()
    said = run("info", "out").stdout
    for part in ("gemma2: 119,680 parameters in bfloat16", "sliding_window 4,096", "policies of 2,000 tokens", "base base, sha256:"):
        assert part in said
    assert "template A; made by guardrail" in said


def test_info_of_a_plain_checkpoint_says_that_nobody_vouches_for_it(folder: Path) -> None:
    plain_checkpoint(folder)
    assert "no manifest: a plain checkpoint" in run("info", "plain").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("merge", "--base", "nowhere", "--adapter", "adapter", "--output", "out"), "nowhere: there is no such folder"),
        (("merge", "--base", "base", "--adapter", "base", "--output", "out"), "adapter_config.json cannot be read as JSON"),
        (("verify", "base"), "it was not written by `guardrail model merge`"),
        (("info", "adapter"), "has no config.json"),
    ],
)
def test_a_mistake_is_one_sentence(folder: Path, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["model", *arguments])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert said in error
    assert error.startswith("guardrail: ")
    assert error.count("\n") == 1


def test_weights_that_moved_can_be_pointed_at(folder: Path) -> None:
    merged()
    shutil.move(folder / "base", folder / "elsewhere")
    assert run("verify", "out", "--base", "elsewhere").exit_code == 0
