import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_cases import DOCUMENT

from guardrail.errors import PolicyError
from guardrail.policy.document import parse, parse_prose
from guardrail.policy.findings import CODES
from guardrail.policy.writer import dump, with_threshold
from guardrail.types import Change, Criterion, Label, Policy, PolicyTest, Stage

FRONT, BODY_AND_REST = DOCUMENT.split("---\n# Policy", 1)
BODY, REST = ("# Policy" + BODY_AND_REST).split("## Tests", 1)
MARKS = [
    "---",
    "# Policy",
    "## Tests",
    "```yaml",
    "```",
    "- text: a",
    "  expect: 1",
    "id: cars",
    "version: 1.0.0",
    "title: x",
    "### (UC): x",
]
SIGNS = [
    "**Excludes**:",
    "**",
    "- ",
    "&a ",
    "*a ",
    '"\\U',
    '"\\uD800"',
    "[",
    "{",
    "? ",
    "!!binary ",
    "%YAML 9",
    "\r",
    "\u2028",
    "\x00",
    "\ud800",
]
PIECES = st.sampled_from([f"{mark}\n" for mark in (*MARKS, "#### Includes")] + SIGNS)
WORDS = st.from_regex(r"[a-z]{1,8}( [a-z]{1,8}){0,4}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).map(str.strip).filter(bool)
VERSIONS = st.tuples(*[st.integers(0, 99)] * 3).map(lambda numbers: ".".join(map(str, numbers)))
CRITERIA = st.builds(lambda name, text, excludes: Criterion(name, f"Content that {text}.", 0, excludes), WORDS, WORDS, st.just("") | WORDS)
LISTS = st.lists(CRITERIA, min_size=1, max_size=4).map(tuple)
LABELS = st.builds(lambda name, includes, excludes: Label("UC", name, includes, excludes, 0), WORDS, LISTS, LISTS | st.just(()))
TESTS = st.builds(lambda text, expected, why: PolicyTest(text, expected, why, 0), TEXTS, st.sampled_from((0, 1)), TEXTS)
CHANGES = st.builds(lambda version, day, text: Change(version, day.isoformat(), text, 0), VERSIONS, st.dates(), WORDS)
NUMBERS = st.floats(1e-9, 1)
POLICIES = st.builds(
    Policy,
    id=st.from_regex(r"[a-z][a-z0-9_]{1,20}", fullmatch=True),
    version=VERSIONS,
    title=TEXTS.filter(lambda text: text.isprintable()),
    label_code=st.just("UC"),
    threshold=NUMBERS,
    output_threshold=st.none() | NUMBERS,
    applies_to=st.sets(st.sampled_from(Stage), min_size=1).map(frozenset),
    language=st.sampled_from(("en", "no", "pt-BR")),
    overview=WORDS,
    terms=LISTS,
    interpretation=WORDS,
    labels=LABELS.map(lambda label: (label,)),
    body=st.just(""),
    digest=st.just(""),
    judge_with=st.sampled_from(("nothing", "prompt")),
    tests=st.lists(TESTS, max_size=4).map(tuple),
    changes=st.lists(CHANGES, max_size=3).map(tuple),
)


def without_places(policy: Policy) -> Policy:
    """The policy with every line number 0 and without what follows from its spelling."""
    return replace(
        policy,
        terms=tuple(replace(term, line=0) for term in policy.terms),
        labels=tuple(
            replace(
                label,
                line=0,
                includes=tuple(replace(one, line=0) for one in label.includes),
                excludes=tuple(replace(one, line=0) for one in label.excludes),
            )
            for label in policy.labels
        ),
        tests=tuple(replace(case, line=0) for case in policy.tests),
        changes=tuple(replace(change, line=0) for change in policy.changes),
        body="",
        digest="",
    )


@given(st.text() | st.lists(PIECES | st.text(max_size=5), max_size=30).map("".join))
def test_arbitrary_text_gives_a_policy_or_findings_and_nothing_else(text: str) -> None:
    for read in (parse, parse_prose, lambda inner: parse(FRONT + "---\n" + inner), lambda inner: parse(f"{DOCUMENT}\n{inner}")):
        try:
            policy = read(text)
        except PolicyError as error:
            codes = [finding.code for finding in error.findings]
        else:
            codes = []
            assert (bool(policy.labels), bool(policy.body)) == (True, True)
        assert all(code in CODES for code in codes)


@given(TEXTS, st.lists(TESTS, max_size=3), st.lists(CHANGES, max_size=3))
def test_the_digest_ignores_title_tests_and_changes(title: str, tests: list[PolicyTest], changes: list[Change]) -> None:
    original = parse(DOCUMENT)
    edited = parse(dump(replace(original, title=" ".join(title.split()) or "x", tests=tuple(tests), changes=tuple(changes))))
    assert edited.digest == parse(dump(original)).digest
    assert [case.text for case in edited.tests] == [case.text for case in tests]


@given(st.integers(0, len(BODY.rstrip()) - 1), st.characters(exclude_categories=["C", "Z"]))
def test_the_digest_changes_with_any_edit_of_the_body(place: int, char: str) -> None:
    edited = BODY[:place] + char + BODY[place:]
    try:
        changed = parse(f"{FRONT}---\n{edited}## Tests{REST}")
    except PolicyError:
        return
    assert changed.body != parse(DOCUMENT).body
    assert changed.digest != parse(DOCUMENT).digest


@given(POLICIES)
def test_a_structured_policy_survives_being_written_and_read(policy: Policy) -> None:
    assert without_places(parse(dump(policy))) == without_places(replace(policy, path="<text>"))


SPELLINGS = (
    "threshold: {now}",
    "threshold:   {now}  # measured",
    "threshold: '{now}'",
    "threshold: {{input: {now}, output: {then}}}",
    "threshold: {{ output: {then} , input: {now} }}  # measured",
    "threshold: {{input: {now},\n  output: {then}}}",
    "threshold:\n  output: {then}  # of answers\n\n  input: {now}\n# end",
    "",
)


@given(
    POLICIES,
    st.tuples(NUMBERS, NUMBERS, NUMBERS),
    st.sampled_from(SPELLINGS),
    st.sampled_from(Stage),
    st.sampled_from(["\n", "\r\n"]),
)
def test_another_threshold_of_a_stage_changes_nothing_else(
    policy: Policy, values: tuple[float, float, float], spelled: str, stage: Stage, end: str
) -> None:
    now, then, wanted = values
    given = spelled.format(now=repr(now), then=repr(then))
    front, rest = re.split(r"(?m)^threshold: .*\n", dump(policy), maxsplit=1)
    text = (front + (given and f"{given}\n") + rest).replace("\n", end)
    before, changed = parse(text), with_threshold(text, wanted, stage)
    after = parse(changed)
    other = Stage.OUTPUT if stage is Stage.INPUT else Stage.INPUT
    assert after.threshold_at(stage) == wanted
    one_for_all = before.output_threshold is None and policy.applies_to == {stage}
    assert after.threshold_at(other) == (wanted if one_for_all else before.threshold_at(other))
    assert without_places(replace(after, threshold=0.5, output_threshold=None)) == without_places(
        replace(before, threshold=0.5, output_threshold=None)
    )
    assert with_threshold(changed, wanted, stage) == changed
    numbers = re.compile(r"threshold:.*|\d[\d.e-]*|\r?\n")  # what is left when the thresholds themselves are taken out
    assert numbers.sub("", changed.replace("#", "\n#")) == numbers.sub("", text.replace("#", "\n#"))
    assert changed.count("# ") == text.count("# ")


def test_a_comment_behind_the_threshold_stays() -> None:
    text = DOCUMENT.replace("threshold: 0.6", "threshold: 0.25  # measured")
    assert "threshold: {input: 0.25, output: 0.75}  # measured\n" in with_threshold(text, 0.75, Stage.OUTPUT)
    assert "threshold: 0.25  # measured\n" in with_threshold(text, 0.25, Stage.OUTPUT)


def test_one_number_stays_one_where_the_policy_judges_that_stage_alone() -> None:
    text = DOCUMENT.replace("[input, output]", "[output]")
    assert "\nthreshold: 0.75\n" in with_threshold(text, 0.75, Stage.OUTPUT)
    assert "\nthreshold: {input: 0.75, output: 0.6}\n" in with_threshold(text, 0.75, Stage.INPUT)


def test_a_front_matter_on_one_line_is_rewritten_where_it_says_a_threshold() -> None:
    head = '---\n{id: cars, version: 1.0.0, title: "Cars"'
    text = f"{head}, threshold: 0.25}}\n---\n# Policy{BODY_AND_REST}"
    assert with_threshold(text, 0.75, Stage.INPUT).startswith(f"{head}, threshold: {{input: 0.75, output: 0.25}}}}\n---\n")
    with pytest.raises(PolicyError):
        with_threshold(f"{head}}}\n---\n# Policy{BODY_AND_REST}", 0.75, Stage.INPUT)


@pytest.mark.parametrize(
    "written", ["{input: &one 0.25, output: *one}", ">-\n  0.25", "{input: 0.3, output: !!float 0.4e\n  }", '"0.\\\n  25"']
)
def test_a_threshold_that_cannot_be_rewritten_is_refused_and_nothing_else_written(written: str) -> None:
    text = DOCUMENT.replace("threshold: 0.6", f"threshold: {written}")
    with pytest.raises(PolicyError):
        with_threshold(text, 0.75, Stage.OUTPUT)


@pytest.mark.parametrize("value", [0.0, -1.0, 1.5, float("nan")])
def test_what_is_no_threshold_is_not_written(value: float) -> None:
    with pytest.raises(ValueError, match="over 0 and up to 1"):
        with_threshold(DOCUMENT, value, Stage.INPUT)
