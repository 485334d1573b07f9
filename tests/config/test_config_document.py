"""Reading YAML: lines, duplicates, bounds, and nothing that runs."""

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from guardrail.config.document import MAX_DEPTH, parse

SCALARS = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e6, 1e6) | st.text("ab:#-'\"{}[]é\n 01", max_size=8)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc ", min_size=1), inner, max_size=3), max_leaves=12
)


def _codes(text: str) -> list[str]:
    return [f"{finding.line} {finding.code}" for finding in parse(text, "f")[2]]


def test_every_key_and_list_entry_has_its_line() -> None:
    value, lines, findings = parse("a:\n  b: 1\n  c:\n    - x\n    - {d: 2}\n", "f")
    assert value == {"a": {"b": 1, "c": ["x", {"d": 2}]}}
    assert lines == {("a",): 1, ("a", "b"): 2, ("a", "c"): 3, ("a", "c", 0): 4, ("a", "c", 1): 5, ("a", "c", 1, "d"): 5}
    assert not findings


@example(0.0002123545101089729)
@given(TREES)
def test_what_yaml_writes_is_read_back(tree: object) -> None:
    value, _, findings = parse(yaml.safe_dump({"root": tree}), "f")
    assert (value, findings) == ({"root": tree}, [])


def test_words_that_yaml_1_1_guesses_at_stay_text() -> None:
    value, _, findings = parse("[on, off, yes, no, 2026-01-01, 010, 0x1f, 1_000, 12:30:00, .inf, .nan]", "f")
    assert value == ["on", "off", "yes", "no", "2026-01-01", "010", "0x1f", "1_000", "12:30:00", ".inf", ".nan"]
    assert not findings


def test_a_duplicate_key_is_refused_at_any_depth_and_the_first_counts() -> None:
    value, _, findings = parse("a: 1\nb:\n  c: 1\n  c: 2\na: 3\n", "f")
    assert value == {"a": 1, "b": {"c": 1}}
    assert [str(finding) for finding in findings] == [
        "f:4: C003 'c' stands twice; the first is on line 3: remove one of them",
        "f:5: C003 'a' stands twice; the first is on line 1: remove one of them",
    ]


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("a: [1", "1 C002"),
        ("a: 1\n---\nb: 2\n", "2 C002"),
        ("a: *nowhere\n", "1 C002"),
        ("a: 1\nb: !!python/object/apply:os.getcwd []\n", ""),
        ("a: !!python/name:os.getcwd x\n", "1 C002"),
        ("a: !!int x\n", "1 C002"),
        ("a: !!binary aGk=\n", "1 C002"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "3 C002"),
        ("1: a\n", "1 C002"),
        ("[a, b]: c\n", "1 C002"),
        ("a: \x07\n", "1 C002"),
    ],
)
def test_what_is_not_plain_yaml_is_refused(text: str, finding: str) -> None:
    assert _codes(text) == ([finding] if finding else [])


def test_a_tag_on_a_list_builds_nothing_but_the_list() -> None:
    assert parse("a: !!python/object/apply:os.getcwd [x]\n", "f")[0] == {"a": ["x"]}


def test_aliases_that_multiply_end_at_the_bound() -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
    assert [code.split()[1] for code in _codes(text)] == ["C002"]


def test_an_alias_to_itself_ends_at_the_bound() -> None:
    assert [code.split()[1] for code in _codes("a: &a [*a]\n")] == ["C002"]


def test_nesting_ends_at_the_bound() -> None:
    assert _codes("[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)) == []
    assert _codes("[" * 50_000) == ["1 C002"]
