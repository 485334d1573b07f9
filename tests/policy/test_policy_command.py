import json
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from guardrail.cli import policy as command
from guardrail.policy.document import parse
from guardrail.policy.findings import CODES
from guardrail.policy.prompt import render
from guardrail.testing import ScriptedClassifier, contains


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command.policy, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def file(tmp_path: Path, document: str) -> Path:
    path = tmp_path / "used_cars.md"
    path.write_text(document)
    return path


@pytest.fixture
def classifier(monkeypatch: pytest.MonkeyPatch) -> ScriptedClassifier:
    """Stands in for every classifier; the right answers are its first setting."""
    scripted = ScriptedClassifier({"used_cars": contains("estate")})

    @asynccontextmanager
    async def opened(name: str, config: object = None):
        yield scripted
        await scripted.aclose()

    monkeypatch.setattr(command, "open_classifier", opened)
    return scripted


def test_a_new_policy_only_needs_filling_in(tmp_path: Path) -> None:
    path = tmp_path / "late_trains.md"
    written = run("new", "late_trains", "--output", path)
    assert (written.exit_code, parse(path.read_text()).id) == (0, "late_trains")
    found = json.loads(run("lint", "--json", path).stdout)
    assert {finding["code"] for finding in found} == {"L023"}


def test_a_new_policy_never_takes_the_place_of_a_file(file: Path, document: str) -> None:
    refused = run("new", "used_cars", "--output", file)
    assert refused.exit_code == 2
    assert "already exists" in refused.stderr
    assert file.read_text() == document


def test_a_new_policy_needs_a_usable_id(tmp_path: Path) -> None:
    assert run("new", "../Late", "--output", tmp_path / "x.md").exit_code == 2
    assert not (tmp_path / "x.md").exists()


def test_lint_prints_findings_with_their_places_and_says_no(file: Path) -> None:
    result = run("lint", file)
    assert result.exit_code == 1
    assert result.stdout == f"{file}:39: L014 2 tests; 12 is the least\n"


def test_lint_tells_the_findings_of_every_file_of_a_folder(file: Path, document: str) -> None:
    (file.parent / "broken.md").write_text(document.replace("0.6", "6"))
    found = json.loads(run("lint", "--json", file.parent).stdout)
    assert [(Path(finding["path"]).name, finding["line"], finding["code"]) for finding in found] == [
        ("broken.md", 6, "P009"),
        ("used_cars.md", 39, "L014"),
    ]


def test_lint_checks_the_shipped_policies_by_default() -> None:
    result = run("lint")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "8 policies checked, 0 findings" in result.stderr


def test_lint_explains_its_codes() -> None:
    listed = run("lint", "--codes")
    assert listed.exit_code == 0
    assert all(f"{row.code}  " in listed.stdout and row.remedy in listed.stdout for row in CODES.values())


def test_show_prints_the_prompt_to_the_byte(file: Path, document: str) -> None:
    shown = run("show", file, "--text", "two {braces}")
    assert shown.stdout_bytes == render(parse(document), "two {braces}").encode()
    other = run("show", "used_cars", "--folder", file.parent, "--template", "wmf")
    assert other.stdout_bytes == render(parse(document), "", "wmf").encode()


def test_show_names_the_policies_there_are_for_one_there_is_not() -> None:
    result = run("show", "used_cars")
    assert result.exit_code == 2
    assert "violence" in result.stderr


def test_a_trial_passes_and_closes_its_classifier(file: Path, classifier: ScriptedClassifier) -> None:
    result = run("test", file)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].split() == ["used_cars", "1.2.0", "2/2", "100.0%"]
    assert classifier.closed


def test_a_trial_shows_every_failure_and_says_no(file: Path, classifier: ScriptedClassifier) -> None:
    file.write_text(file.read_text().replace("My estate", "My van"))
    result = run("test", "used_cars", "--folder", file.parent)
    assert result.exit_code == 1
    assert "under 90%" in result.stdout
    assert f"{file}:42: used_cars expected 1, score 0.020 (Offer)" in result.stdout
    assert run("test", file, "--min-rate", "0.5").exit_code == 0


def test_a_trial_can_be_read_by_programs(file: Path, classifier: ScriptedClassifier) -> None:
    file.write_text(file.read_text().replace("My estate", "My van"))
    (trial,) = json.loads(run("test", file.parent, "--json").stdout)
    assert (trial["policy"], trial["tests"], trial["rate"]) == ("used_cars", 2, 0.5)
    assert [(failure["line"], failure["expected"], failure["score"]) for failure in trial["failures"]] == [(42, 1, 0.02)]
