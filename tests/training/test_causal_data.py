"""Examples from JSON lines: every mistake is named with file and line, manifests are held against, units stay on one side."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from guardrail.errors import GuardrailError
from guardrail.training.causal_data import Example, read, split, without
from guardrail.training.causal_measures import measures

GOOD = {"policy": "Content about gardens.", "content": "The tulips are out.", "label": 1}


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def test_rows_are_read_in_order_with_what_they_leave_out(tmp_path: Path) -> None:
    full = {"policy": "p {content}", "content": "c\n{x}", "label": 0, "weight": 0.5, "unit": "u", "kind": "group", "step": 3, "aim": "x"}
    found = read([lines(tmp_path / "a.jsonl", GOOD, "", full), lines(tmp_path / "b.jsonl", GOOD)])
    first, second, third = found.rows
    assert second == Example("p {content}", "c\n{x}", 0, 0.5, "u", "group")
    assert (first.weight, first.kind, first.unit) == (1.0, "", "the tulips are out.")
    assert first == third
    assert found.digest == "sha256:" + hashlib.sha256((tmp_path / "a.jsonl").read_bytes() + (tmp_path / "b.jsonl").read_bytes()).hexdigest()
    assert found.manifest == ""


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "Expecting property name"),
        ("[1]", "a line is a JSON object"),
        ({**GOOD, "policy": None}, '"policy" is missing'),
        ({**GOOD, "content": 3}, '"content" is no text'),
        ({**GOOD, "content": "  "}, '"content" is no text, or an empty one'),
        ({**GOOD, "label": 2}, '"label" is 2; it is 1 where'),
        ({**GOOD, "label": True}, '"label" is true'),
        ({**GOOD, "label": "1"}, '"label" is "1"'),
        ({**GOOD, "label": None}, '"label" is null'),
        ({**GOOD, "weight": 0}, '"weight" is 0; it is a number above 0'),
        ({**GOOD, "weight": float("nan")}, '"weight" is NaN'),
        ("[" * 100_000, "recursion"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, row: Any, said: str) -> None:
    file = lines(tmp_path / "a.jsonl", GOOD, "", row)
    with pytest.raises(GuardrailError) as raised:
        read([file])
    assert str(raised.value).startswith(f"{file}:3: ")
    assert said in str(raised.value)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(json.dumps(GOOD).encode() + b"\n\xff\n")
    with pytest.raises(GuardrailError, match=r"a\.jsonl:2: this is not UTF-8"):
        read([tmp_path / "a.jsonl"])


def test_a_file_with_nothing_or_none_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GuardrailError, match="there are no examples"):
        read([lines(tmp_path / "a.jsonl", "")])
    with pytest.raises(GuardrailError, match=r"none\.jsonl cannot be read"):
        read([tmp_path / "none.jsonl"])


def test_triples_are_those_of_their_manifest(tmp_path: Path) -> None:
    file = lines(tmp_path / "triples.jsonl", GOOD)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"triples": {"count": 1, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}}))
    for place in (tmp_path, file):
        found = read([place])
        assert found.manifest == "sha256:" + hashlib.sha256(manifest.read_bytes()).hexdigest()
    lines(file, {**GOOD, "label": 0})
    with pytest.raises(GuardrailError, match=r"manifest\.json: triples\.jsonl beside it is not the file that it describes"):
        read([tmp_path])
    manifest.write_text("{}")
    with pytest.raises(GuardrailError, match="no manifest of triples"):
        read([tmp_path])


def test_a_unit_stands_on_one_side_whatever_the_policy() -> None:
    rows = [Example(f"policy {n % 3}", f"text {n // 3}", n % 2, 1.0, f"text {n // 3}", "") for n in range(3000)]
    learnt, kept = split(rows, 10)
    assert {row.unit for row in learnt} & {row.unit for row in kept} == set()
    assert 0.06 < len(kept) / len(rows) < 0.14
    assert split(reversed(rows), 10)[1] == kept[::-1]
    assert split(rows, 0) == (rows, [])


def test_what_is_measured_on_is_not_learnt_by_unit_or_by_content() -> None:
    rows = [Example("p", text, 0, 1.0, unit, "") for text, unit in (("One.", "a"), ("Two.", "b"), ("three", "c"))]
    other = [Example("q", "x", 1, 1.0, "a", ""), Example("q", " THREE", 1, 1.0, "z", "")]
    assert [row.content for row in without(rows, other)] == ["Two."]


def test_measures_are_those_of_the_definitions() -> None:
    rows = [Example(policy, content, label, 1.0, content, "") for policy, content, label in
            (("p", "a", 1), ("q", "a", 0), ("p", "b", 1), ("q", "b", 0), ("p", "c", 0))]  # fmt: skip
    found = measures(rows, [0.9, 0.2, 0.4, 0.4, 0.6], [0.1, 0.3, 0.2, 0.2, 0.2])
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["f1"] == pytest.approx(2 / 4)
    assert found["auc"] == pytest.approx((3 + 1.5) / 6)  # of six pairs one is tied and one the wrong way
    assert found["opposed"] == 0.5
    assert found["outside"] == pytest.approx(0.2)
    assert "auc" not in measures(rows[:1], [0.9])
    assert measures([], []) == {}
