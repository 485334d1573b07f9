"""Versions on trial: what is wrong with one is told at its line."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from config_cases import Policies, found

from guardrail.cli.routes import routes
from guardrail.config import check, load, loads
from guardrail.config.show import show
from guardrail.policy.registry import Sources, shipped_folder
from guardrail.testing import policy
from guardrail.types import Stage

TEXT = (
    "routes:\n  - name: r\n    input:\n      policies:\n        - id: harassment\n          candidate: {}\n    output: {{policies: []}}\n"
)


@pytest.fixture
def policies() -> Policies:
    made = Policies()
    made.candidates = {
        "same.md": policy("harassment"),
        "other.md": policy("violence", body="new"),
        "answers.md": policy("harassment", body="new", applies_to=frozenset({Stage.OUTPUT})),
        "good.md": policy("harassment", body="new"),
        "prompts.md": policy("harassment", threshold=0.7, output_threshold=0.5),
        "unlike.md": policy("harassment", output_threshold=0.7),
    }
    return made


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        ("same.md", ["6 C026 warning"]),
        ("harassment", ["6 C026 warning"]),
        ("other.md", ["6 C026 error"]),
        ("answers.md", ["6 C026 error"]),
        ("missing.md", ["6 C026 error"]),
        ("nobody", ["6 C026 error"]),
        ("good.md", []),
        ("prompts.md", []),
        ("unlike.md", ["6 C026 warning"]),  # of answers alone, and asked about prompts
        ("violence", []),
    ],
)
def test_a_candidate_is_another_version_that_is_there(policies: Policies, candidate: str, expected: list[str]) -> None:
    assert [each for each in found(TEXT.format(candidate), policies) if "C026" in each] == expected


def test_a_candidate_that_has_another_threshold_of_answers_alone_is_another_one_of_answers(policies: Policies) -> None:
    text = "routes:\n  - name: r\n    input: {policies: []}\n    output: {policies: [{id: harassment, candidate: %s}]}\n"
    assert [each for each in found(text % "unlike.md", policies) if "C026" in each] == []
    assert [each for each in found(text % "prompts.md", policies) if "C026" in each] == ["4 C026 warning"]


def test_a_candidates_file_is_looked_for_before_it_is_read() -> None:
    assert [(each.line, each.code) for each in check(loads(TEXT.format("drafts/none.md")))] == [(6, "C042")]


def test_candidates_are_read_with_the_policies_and_a_change_of_one_is_a_change(tmp_path: Path) -> None:
    draft = tmp_path / "drafts" / "h.md"
    draft.parent.mkdir()
    text = (shipped_folder() / "harassment.md").read_text(encoding="utf-8")
    draft.write_text(text.replace("## Overview\n", "## Overview\n\nOn trial.\n", 1), encoding="utf-8")
    file = tmp_path / "guardrail.yaml"
    file.write_text(TEXT.format("drafts/h.md"))
    config = load(file)
    sources = Sources(True, None, {}, config.candidates)
    first = sources.load()
    assert first.candidates["drafts/h.md"].id == "harassment"
    assert [each for each in check(config, first) if each.severity == "error"] == []
    assert len(first.distinct()) == len(first.base) + 1
    draft.write_text(text.replace("## Overview\n", "## Overview\n\nOn trial, again.\n", 1), encoding="utf-8")
    assert sources.load().digest != first.digest
    assert sources.load().at(3).candidates == sources.load().candidates


def test_the_effective_configuration_and_the_routes_name_the_candidate(tmp_path: Path) -> None:
    file = tmp_path / "guardrail.yaml"
    file.write_text(TEXT.format("drafts/h.md"))
    assert "candidate: drafts/h.md" in show(load(file))
    told = CliRunner().invoke(routes, [str(file)], catch_exceptions=False).output
    assert "r, input: harassment is judged beside its candidate drafts/h.md, which only records" in told
