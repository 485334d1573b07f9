import hashlib
from pathlib import Path

import pytest

from guardrail.errors import PolicyError
from guardrail.policy.document import MAX_PROSE_CHARS, parse, parse_prose, read
from guardrail.types import Stage


def refused(text: str) -> list[tuple[int, str]]:
    with pytest.raises(PolicyError) as caught:
        parse(text, "cars.md")
    return [(finding.line, finding.code) for finding in caught.value.findings]


def with_labels(inner: str) -> str:
    return f"---\nid: used_cars\nversion: 1.0.0\ntitle: Cars\nlabel: UC\n---\n# Policy\n## Definition of Labels\n{inner}\n"


def test_a_whole_document_is_read_into_its_parts(document: str) -> None:
    policy = parse(document)
    assert (policy.id, policy.version, policy.title, policy.label_code) == ("used_cars", "1.2.0", "Used cars", "UC")
    assert (policy.threshold, policy.applies_to, policy.language) == (0.6, frozenset(Stage), "en")
    assert policy.overview.startswith("This policy classifies")
    assert policy.interpretation == "- Quoted text counts like any other text."
    assert [(term.name, term.text) for term in policy.terms] == [("Vehicle", "Any car or van that had an owner before.")]
    (label,) = policy.labels
    assert [one.name for one in label.includes] == ["Offer", "Search"]
    assert [one.name for one in label.excludes] == ["Repair", "New cars", "Toys"]
    assert label.includes[0].excludes == "toy cars."
    assert [(case.expected, case.why) for case in policy.tests] == [(1, "Offer"), (0, "Repair")]
    assert [(change.version, change.date) for change in policy.changes] == [("1.2.0", "2026-02-01"), ("1.0.0", "2026-01-01")]


BLOCK = "threshold:\n  # chosen apart\n  output: .4  # answers\n\n  input: 0.77"
FLOW = "threshold: {input: 0.77, output: 0.40}"


@pytest.mark.parametrize("written", [FLOW, BLOCK, '"threshold": {"output": \'0.4\',\n  "input": 7.7e-1}'])
def test_prompts_and_answers_may_have_a_threshold_each(document: str, written: str) -> None:
    policy = parse(document.replace("threshold: 0.6", written))
    assert (policy.threshold, policy.output_threshold) == (0.77, 0.4)
    assert [policy.threshold_at(stage) for stage in Stage] == [0.77, 0.4]
    assert policy.digest == parse(document).digest
    assert [parse(document).threshold_at(stage) for stage in Stage] == [0.6, 0.6]


@pytest.mark.parametrize(
    ("written", "line"),
    [
        ("threshold: {}", 6),
        ("threshold: {input: 0.7}", 6),
        ("threshold: {input: 0.7, output: 0.4, answers: 0.3}", 6),
        ("threshold: {input: 0.7, input: 0.4}", 6),
        ("threshold: {input: 0.7, output: 0.4, output: 0.4}", 6),
        ("threshold: {input: 0.7, output: 0}", 6),
        ("threshold: {input: .inf, output: high}", 6),
        ("threshold: {input: 0.7, output: {}}", 6),
        ("threshold: {input: 0.7, output: }", 6),
        ("threshold: {<<: {input: 0.7}, output: 0.3}", 6),
        ("threshold: {[input]: 0.7, output: 0.3}", 6),
        ("threshold: {prompts: 0.7, answers: 0.4}", 6),
        ("threshold:\n  input: 0.7\n  output: 1.5", 8),
        ("threshold:\n  input: no\n  output: 0.5", 7),
        ("threshold:\n  - 0.7\n  - 0.5", 7),
        ("threshold:", 6),
        ("threshold: null", 6),
    ],
)
def test_thresholds_that_are_none_are_one_finding_with_its_line(document: str, written: str, line: int) -> None:
    with pytest.raises(PolicyError, match=rf"^cars\.md:{line}: P009 `threshold` must be a number .*`{{input: 0.8, output: 0.4}}`$"):
        parse(document.replace("threshold: 0.6", written), "cars.md")


def test_every_value_knows_its_line(document: str) -> None:
    policy = parse(document)
    lines = document.split("\n")
    assert lines[policy.lines["threshold"] - 1] == "threshold: 0.6"
    assert lines[policy.lines["Definition of Terms"] - 1] == "## Definition of Terms"
    text = document.replace("threshold: 0.6", BLOCK)
    assert [text.split("\n")[parse(text).lines[f"threshold {stage.value}"] - 1].split()[0] for stage in Stage] == ["input:", "output:"]
    assert lines[policy.lines["body"] - 1] == "# Policy"
    assert lines[policy.labels[0].line - 1] == "### (UC): Used cars"
    for one in (*policy.labels[0].includes, *policy.labels[0].excludes, *policy.terms):
        assert lines[one.line - 1].startswith(f"- **{one.name}**")
    for case in policy.tests:
        assert case.text in lines[case.line - 1]
    for change in policy.changes:
        assert lines[change.line - 1].startswith(f"- {change.version}")


def test_the_body_is_the_prose_alone_and_the_digest_is_over_exactly_it(document: str) -> None:
    policy = parse(document)
    assert policy.body.startswith("# Policy\n")
    assert policy.body.endswith('"a tin racer").')
    assert policy.body in document
    assert policy.digest == "sha256:" + hashlib.sha256(policy.body.encode("utf-8")).hexdigest()


@pytest.mark.parametrize(
    "heading",
    [
        "### (UC): Used cars",
        "### (UC) Used cars",
        "### **(UC)**: Used cars",
        "### (UC) - Used cars",
        "### UC: Used cars",
        "## (UC): Used cars:",
    ],
)
def test_every_spelling_of_a_label_heading_names_the_same_label(heading: str) -> None:
    (label,) = parse(with_labels(f"{heading}\n#### Includes\n- **Offer**: Content.")).labels
    assert (label.code, label.name) == ("UC", "Used cars")


@pytest.mark.parametrize(
    "item",
    [
        "- **Offer**: Content that sells: things.",
        "- **Offer:** Content that sells: things.",
        "- **Offer** - Content that sells: things.",
        "- **Offer** — Content that sells: things.",
        "- __Offer__: Content that sells: things.",
        "- Offer: Content that sells: things.",
        "* **Offer**: Content that sells: things.",
        "+ Offer: Content that sells: things.",
        "1. **Offer**: Content that sells: things.",
        "12) Offer: Content that sells: things.",
        "- **Offer**: Content that\n  sells: things.",
        "- **Offer**: Content that\nsells: things.",
        "- **Offer**: Content that\n\n  sells: things.",
        "**Offer**: Content that sells: things.",
    ],
)
def test_every_spelling_of_a_criterion_gives_the_same_name_and_text(item: str) -> None:
    (label,) = parse(with_labels(f"### (UC): Cars\n#### Includes\n{item}")).labels
    assert [(one.name, one.text) for one in label.includes] == [("Offer", "Content that sells: things.")]


@pytest.mark.parametrize(
    "item",
    [
        "- **Offer**: Content that sells. **Excludes**: toys.",
        "- **Offer**: Content that sells. **Excludes:** toys.",
        "- **Offer**: Content that sells. *Excludes*: toys.",
        "- Offer: Content that sells. Excludes: toys.",
        "- **Offer**: Content that sells.\n  - **Excludes**: toys.",
        "- **Offer**: Content that sells.\n- **Excludes**: toys.",
    ],
)
def test_every_spelling_of_an_inline_exception_is_kept_apart(item: str) -> None:
    (label,) = parse(with_labels(f"### (UC): Cars\n#### Includes\n{item}")).labels
    assert [(one.name, one.text, one.excludes) for one in label.includes] == [("Offer", "Content that sells.", "toys.")]


@pytest.mark.parametrize(
    "item", ["Content that says: hello.", "**Vehicle** offers of any kind.", 'Sellers who write "best offer: call me".']
)
def test_text_that_only_looks_named_has_no_name(item: str) -> None:
    (label,) = parse(with_labels(f"### (UC): Cars\n#### Includes\n- {item}")).labels
    assert [(one.name, one.text) for one in label.includes] == [("", item)]


def test_headings_of_other_case_with_colons_and_as_criteria_are_the_same_sections(document: str) -> None:
    other = (
        document.replace("# Policy", "# CRITERIA:")
        .replace("## Overview", "## OVERVIEW:")
        .replace("## Definition of Terms", "## definition of terms ##")
        .replace("## Interpretation of Language", "## **Interpretation of Language**:")
        .replace("#### Includes", "**Includes**:")
        .replace("#### Excludes", "#### EXCLUDES:")
    )
    ours, theirs = parse(document), parse(other)
    assert (ours.overview, ours.interpretation, ours.terms, ours.labels) == (
        theirs.overview,
        theirs.interpretation,
        theirs.terms,
        theirs.labels,
    )
    assert dict(ours.lines) == dict(theirs.lines)


def test_line_ends_a_byte_order_mark_and_trailing_spaces_change_nothing(document: str) -> None:
    windows = "\ufeff" + document.replace("\n", " \t\r\n")
    assert parse(windows) == parse(document)


def test_several_labels_parse_in_order() -> None:
    text = with_labels(
        "### (UC): Cars\n#### Includes\n- **A**: x.\n#### Excludes\n- **B**: y.\n### (BK): Bikes\n#### Includes\n- **C**: z."
    )
    assert [(label.code, len(label.includes), len(label.excludes)) for label in parse(text).labels] == [("UC", 1, 1), ("BK", 1, 0)]


def test_headings_inside_a_fence_are_text() -> None:
    policy = parse(with_labels("### (UC): Cars\n#### Includes\n- **A**: x.\n```\n## Tests\n```\n#### Excludes\n- **B**: y."))
    assert policy.tests == ()
    assert "## Tests" in policy.body
    assert policy.labels[0].excludes[0].name == "B"


def test_values_are_read_as_written_and_not_as_yaml_guesses() -> None:
    policy = parse(with_labels("### (NO): Cars\n#### Includes\n- **A**: x.").replace("label: UC", "label: NO\nlanguage: no"))
    assert (policy.label_code, policy.language) == ("NO", "no")


def test_settings_have_defaults() -> None:
    policy = parse("---\nid: cars\nversion: 1.0.0\ntitle: Cars\n---\n### (UC): Cars\n#### Includes\n- x")
    assert (policy.label_code, policy.threshold, policy.applies_to, policy.language) == ("UC", 0.5, frozenset(Stage), "en")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("---\nid:", "id:", [(1, "P003")]),
        ("language: en\n---\n", "language: en\n", [(1, "P004")]),
        ("title: Used cars", "title: [Used", [(5, "P005")]),
        ("title: Used cars", "titel: Used cars", [(1, "P008"), (4, "P006")]),
        ("title: Used cars", "title: Used cars\nid: other", [(5, "P007")]),
        ("version: 1.2.0\n", "", [(1, "P008")]),
        ("version: 1.2.0", "version: 1.2", [(3, "P009")]),
        ("id: used_cars", "id: Used-Cars", [(2, "P009")]),
        ("threshold: 0.6", "threshold: 0", [(6, "P009")]),
        ("threshold: 0.6", "threshold: .nan", [(6, "P009")]),
        ("threshold: 0.6", "threshold: [0.6]", [(6, "P009")]),
        ("applies_to: [input, output]", "applies_to: [input, both]", [(7, "P009")]),
        ("applies_to: [input, output]", "applies_to: []", [(7, "P009")]),
        ("language: en", "language: !!python/object/apply:os.getcwd []", [(8, "P009")]),
        ("language: en", "judge_with: answer", [(8, "P009")]),
        ("label: UC", "label: HS", [(5, "P013")]),
        ("  expect: 1\n", "  expect: 2\n", [(43, "P015")]),
        ("  expect: 1\n", "  expect: 1\n  expect: 0\n", [(44, "P007")]),
        ("  expect: 1\n", "  expected: 1\n", [(43, "P006")]),
        ("  expect: 1\n", "", [(42, "P015")]),
        ("  expect: 1\n", "  expect: 1\n  criterion: Lorries\n", [(42, "P024")]),
        ("- 1.2.0 (2026-02-01): Searches count.", "- 1.2.0 (2026-02-31): Searches count.", [(52, "P016")]),
        ("## Changes", "## Tests", [(50, "P017")]),
        ("## Definition of Terms", "## Overview", [(16, "P017")]),
        ("## Changes", "## Notes", [(50, "P018")]),
        ("```\n", "", [(41, "P014")]),
    ],
)
def test_a_defect_is_named_with_its_line_and_code(document: str, old: str, new: str, expected: list[tuple[int, str]]) -> None:
    assert old in document
    assert refused(document.replace(old, new, 1)) == expected


def test_all_defects_of_a_document_are_told_at_once(document: str) -> None:
    text = (
        document.replace("threshold: 0.6", "threshold: high")
        .replace("  expect: 0\n", "  expect: maybe\n")
        .replace("label: UC", "label: HS")
    )
    assert refused(text) == [(5, "P013"), (6, "P009"), (46, "P015")]


def test_labels_without_includes_repeated_or_absent_are_refused() -> None:
    assert refused(with_labels("")) == [(0, "P010")]
    assert refused(with_labels("### (UC): Cars\n#### Excludes\n- **A**: x.")) == [(9, "P011")]
    assert refused(with_labels("### (UC): A\n#### Includes\n- x\n### (UC): B\n#### Includes\n- y")) == [(12, "P012")]


def test_cases_outside_a_block_are_refused_instead_of_ignored(document: str) -> None:
    assert refused(document.replace("```yaml\n", "").replace("```\n", ""))[0] == (39, "P015")


def test_a_finding_prints_as_path_line_code_message(document: str) -> None:
    with pytest.raises(PolicyError, match=r"^cars\.md:6: P009 `threshold` must be"):
        parse(document.replace("0.6", "2"), "cars.md")


def test_files_that_cannot_be_read_are_findings(tmp_path: Path) -> None:
    (tmp_path / "latin.md").write_bytes(b"---\nid: caf\xe9\n")
    for name, line in (("latin.md", 2), ("missing.md", 0), (".", 0)):
        with pytest.raises(PolicyError) as caught:
            read(tmp_path / name)
        assert [(finding.line, finding.code) for finding in caught.value.findings] == [(line, "P001")]


def test_plain_sentences_become_one_criterion_and_the_body() -> None:
    policy = parse_prose("Content that offers used cars.\r\n", id="cars", threshold=0.7)
    assert (policy.id, policy.threshold, policy.body) == ("cars", 0.7, "Content that offers used cars.")
    assert [one.text for one in policy.labels[0].includes] == ["Content that offers used cars."]


def test_listed_criteria_become_the_includes() -> None:
    policy = parse_prose("Anything of this kind:\n\n- **Offer**: Content that sells.\n- Search: Content that asks.")
    assert [one.name for one in policy.labels[0].includes] == ["Offer", "Search"]


def test_prose_in_the_full_format_is_read_like_a_file(document: str) -> None:
    whole = parse(document)
    policy = parse_prose(document.split("---\n", 2)[2])
    assert (policy.body, policy.digest, policy.label_code) == (whole.body, whole.digest, "UC")
    assert [one.name for one in policy.labels[0].excludes] == [one.name for one in whole.labels[0].excludes]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (" \n", "P021"),
        ("---\nthreshold: 1\n---\nCars.", "P022"),
        ("x" * (MAX_PROSE_CHARS + 1), "P002"),
        ("\ud800", "P002"),
        ("## Tests\n", "P021"),
    ],
)
def test_prose_that_cannot_be_used_is_refused(text: str, code: str) -> None:
    with pytest.raises(PolicyError, match=code):
        parse_prose(text)


def test_judged_with_the_prompt_is_another_judgement_of_the_same_text(document: str) -> None:
    plain, named, other = (
        parse(document.replace("language: en", f"language: en{more}")) for more in ("", "\njudge_with: nothing", "\njudge_with: prompt")
    )
    assert (plain.judge_with, other.judge_with) == ("nothing", "prompt")
    assert plain.body == other.body
    assert plain.digest == named.digest != other.digest
