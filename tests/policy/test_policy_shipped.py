"""The shipped policies hold to the rules they are the example of."""

import pytest

from guardrail.policy.lint import lint
from guardrail.policy.registry import load_folder, shipped_folder
from guardrail.policy.sets import PolicySet
from guardrail.types import Policy

IDS = ["harassment", "hate_speech", "illegal_activity", "prompt_attack", "self_harm", "sexual_content", "toxicity", "violence"]
SHIPPED = load_folder(shipped_folder())


def test_all_eight_are_shipped_and_each_file_bears_its_id() -> None:
    assert list(PolicySet.of(SHIPPED)) == IDS
    assert sorted(path.stem for path in shipped_folder().glob("*.md")) == IDS


def test_each_has_a_label_code_of_its_own() -> None:
    assert len({policy.label_code for policy in SHIPPED}) == len(IDS)


@pytest.mark.parametrize("policy", SHIPPED, ids=lambda policy: policy.id)
def test_each_is_free_of_findings(policy: Policy) -> None:
    assert [str(finding) for finding in lint(policy)] == []


@pytest.mark.parametrize("policy", SHIPPED, ids=lambda policy: policy.id)
def test_each_has_a_dozen_tests_on_both_sides(policy: Policy) -> None:
    expected = [case.expected for case in policy.tests]
    assert len(expected) >= 12
    assert min(expected.count(0), expected.count(1)) >= 4


@pytest.mark.parametrize("policy", SHIPPED, ids=lambda policy: policy.id)
def test_each_is_as_long_as_policies_read_best(policy: Policy) -> None:
    assert 50 <= policy.lines["body"] + policy.body.count("\n") <= 90
