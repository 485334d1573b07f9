import pytest

from guardrail.policy.document import parse
from guardrail.policy.findings import CODES, table
from guardrail.policy.lint import lint
from guardrail.policy.writer import skeleton
from guardrail.types import Policy

CASES = "".join(f'- text: "case {number}"\n  expect: {number % 2}\n  why: "Offer"\n' for number in range(12))


def found(text: str) -> set[tuple[int, str]]:
    return {(finding.line, finding.code) for finding in lint(parse(text))}


@pytest.fixture
def clean(document: str) -> str:
    """The document with as many tests as lint asks for."""
    return document.replace("```\n", CASES + "```\n", 1)


def test_a_good_policy_has_no_findings(clean: str) -> None:
    assert lint(parse(clean)) == ()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("## Interpretation of Language\n\n- Quoted text counts like any other text.\n", "", {(10, "L001")}),
        ("- **New cars**", "- **Toys**", {(37, "L021")}),
        ("- **Repair**", "- **Offer**", {(35, "L021")}),
        ("- **Toys**: ", "- ", {(37, "L004")}),
        ("offers a **vehicle**", "offers a **truck**", {(30, "L005")}),
        ("- **Vehicle**: Any", "- **Lorry**: A big thing.\n- **Vehicle**: Any", {(18, "L006")}),
        ("that offers a", "designed to deceive, with a", {(30, "L007")}),
        ("a moderate strictness level", "all times", {(12, "L010")}),
        ("Content that speaks of cars straight from the factory line", "Content about new cars", {(36, "L011")}),
        ("toy cars or models to collectors", "toy cars and other harmful content", {(37, "L012")}),
        ("- 1.2.0 (2026-02-01): Searches count.\n", "", {(3, "L018")}),
        ("threshold: 0.6", "threshold: 0.99", {(6, "L019")}),
        ("threshold: 0.6", "threshold:\n  input: 0.6\n  output: 0.99", {(8, "L019")}),
        ("threshold: 0.6", "threshold:\n  input: 0.01\n  output: 0.99", {(7, "L019"), (8, "L019")}),
        ("[input, output]\n", "[input]\njudge_with: prompt\n", {(8, "L029")}),
        ("Content that asks how", "It asks anyone for help on how", {(35, "L020"), (35, "L024")}),
        ("This policy classifies", "CONTENT\n=======\nThis policy classifies", {(14, "L022")}),
        ("title: Used cars", "title: TODO", {(4, "L023")}),
        ("(e.g., \"a tin racer\")", "(e.g., \"TBD\")", {(37, "L023")}),
        ("## Definition of Labels", "## Notes\n\nSome.\n\n## Definition of Labels", {(24, "L025")}),
        ("# Policy\n", "", {(11, "L026")}),
        ("## Overview\n", "## Overview\n" + "\n" * 80, {(10, "L027")}),
        ("## Overview\n", "## Overview\n\n" + "word " * 4000 + "\n", {(10, "L009")}),
        ("  why: \"Repair\"\n", "", {(45, "L017")}),
        ("My estate, 2011, 900 or near offer", "Quoted text counts", {(42, "L028")}),
        ("My estate, 2011, 900 or near offer", "# why does  my gearbox whine?", {(45, "L016")}),
    ],
)  # fmt: skip
def test_each_weakness_is_found_where_it_stands(clean: str, old: str, new: str, expected: set[tuple[int, str]]) -> None:
    assert old in clean
    assert found(clean.replace(old, new, 1)) == expected


def test_missing_tests_few_tests_and_one_sided_tests_are_found(document: str) -> None:
    before, rest = document.split("## Tests", 1)
    assert found(before + "## Changes" + rest.split("## Changes")[1]) == {(0, "L013")}
    assert found(document) == {(39, "L014")}
    assert found(document.replace("  expect: 0", "  expect: 1")) == {(39, "L014"), (39, "L015")}


def test_several_labels_and_few_excludes_are_found(clean: str) -> None:
    bikes = '### (BK): Bikes\n\n#### Includes\n\n- **Bike**: Content that offers a bicycle for sale at a price (e.g., "a racer").\n\n'
    assert found(clean.replace("## Tests", bikes + "## Tests", 1)) == {(39, "L002"), (39, "L003")}


def test_a_side_without_any_example_is_found(clean: str) -> None:
    text = clean.replace('(e.g., "selling my old van")', "").replace('(e.g., "any estate cars going?")', "")
    assert found(text) == {(26, "L008")}


@pytest.mark.parametrize(
    ("wish", "rewrite"),
    [
        ("is intended to harm a person in some way", "contains or depicts harm"),
        ("is designed to deceive the readers of it", "contains false information presented as fact"),
        ("is trying to manipulate the readers of it", "uses one of the listed techniques"),
        ("aims to promote violence among its readers", "contains explicit advocacy or instruction"),
        ("is meant to circumvent the rules of the site", "circumvents through the listed methods"),
    ],
)
def test_wording_of_intent_gets_its_rewrite(clean: str, wish: str, rewrite: str) -> None:
    findings = lint(parse(clean.replace("speaks of cars straight from the factory line", wish)))
    assert [(finding.code, rewrite in finding.message) for finding in findings] == [("L007", True)]


def test_names_of_sub_criteria_need_no_definition(clean: str) -> None:
    nested = "**Repair**: Content that asks how to repair something of one's own:\n  - **Brakes**: discs.\n  - **Doors:** locks and"
    assert lint(parse(clean.replace("**Repair**: Content that asks", nested))) == ()


def test_examples_may_say_what_criteria_may_not(clean: str) -> None:
    assert lint(parse(clean.replace("a tin racer", "trying to sell harmful content, etc."))) == ()


def test_a_skeleton_lacks_nothing_but_its_text() -> None:
    findings = lint(parse(skeleton("late_trains")))
    assert {finding.code for finding in findings} == {"L023"}
    assert len(findings) > 12


def test_the_table_explains_every_code_once(clean: str) -> None:
    text = table()
    for code, row in CODES.items():
        assert text.count(code) == 1
        assert row.meaning in text
        assert row.remedy in text


def test_findings_come_in_order_of_lines(document: str) -> None:
    policy: Policy = parse(document.replace("0.6", "0.99").replace("# Policy\n", ""))
    lines = [finding.line for finding in lint(policy)]
    assert lines == sorted(lines)
    assert len(lines) == 3
