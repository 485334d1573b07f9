"""Two runs side by side: flips both ways, the exact test, kappa by units, and one sentence for what cannot be compared."""

import gzip
import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from guardrail.cli import commands
from guardrail.errors import GuardrailError
from guardrail.evaluation.comparison import ALL, Comparison, Run, compare, flips, mcnemar
from guardrail.evaluation.comparison_plot import picture
from guardrail.evaluation.comparison_report import document, markdown
from guardrail.evaluation.dataset import DataSet, open_set
from guardrail.evaluation.predictions import read_run
from guardrail.evaluation.run import Plan, evaluate
from guardrail.testing import ScriptedClassifier, contains, policy

RUDE, LOUD = policy("rude"), policy("loud", threshold=0.9)
# Two words that a classifier may know, and the label: A knows the first word, B the second.
TEXTS = [
    ("stone shout", 1),
    ("stone calm", 1),
    ("calm", 0),
    ("stone", 0),
    ("shout", 1),
    ("shout quietly", 1),
    ("calm again", 0),
    ("tea", 0),
]


def written(folder: Path, name: str, area: str = "rude") -> DataSet:
    path = folder / f"{name}.jsonl.gz"
    rows = [
        {"id": f"{name}-{n}", "text": text, "label": label, "area": area, "unit": f"u{n // 2}"} for n, (text, label) in enumerate(TEXTS)
    ]
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0))
    return open_set(str(path), None)


async def ran(folder: Path, word: str, sets: tuple[DataSet, ...], **changes: object) -> Run:
    """A run of a classifier that knows one word, in a folder of its own."""
    plan = Plan(sets, tuple(changes.get("policies", (RUDE, LOUD))), {}, batch=3)  # type: ignore[arg-type]
    classifier = ScriptedClassifier(changes.get("script", {"*": contains(word, score=0.8)}), id=f"knows-{word}")  # type: ignore[arg-type]
    async for _ in evaluate(classifier, plan, folder):
        pass
    return opened(folder)


def opened(folder: Path) -> Run:
    return Run(*read_run(folder))


@pytest.fixture
async def runs(tmp_path: Path) -> tuple[Run, Run]:
    sets = (written(tmp_path, "one"), written(tmp_path, "two"))
    return await ran(tmp_path / "A", "stone", sets), await ran(tmp_path / "B", "shout", sets)


@pytest.fixture
def comparison(runs: tuple[Run, Run]) -> Comparison:
    return compare(*runs)


def test_flips_are_counted_both_ways_for_each_set_and_for_all(comparison: Comparison) -> None:
    one, two, both = comparison.tallies
    assert (one.name, two.name, both.name) == ("one", "two", ALL)
    assert (one.both, one.only_first, one.only_second, one.neither) == (1, 2, 2, 3)
    assert (both.texts, both.both, both.only_first) == (16, 2, 4)
    assert len(flips(comparison.pairs)) == 8


def test_what_is_mended_and_broken_is_counted_against_the_labels(comparison: Comparison) -> None:
    tested = comparison.tallies[0].tested
    assert tested is not None
    assert (tested.mended, tested.broken) == (3, 1)  # a harmless stone and two shouts are judged rightly by B, a violating stone by A
    assert tested.p == pytest.approx(mcnemar(3, 1)) == pytest.approx(0.625)
    assert (tested.first.recall, tested.second.recall) == (0.5, 0.75)


def test_turned_round_a_comparison_says_the_same_the_other_way(runs: tuple[Run, Run], comparison: Comparison) -> None:
    for tally, turned in zip(comparison.tallies, compare(*runs[::-1]).tallies, strict=True):
        assert (tally.only_first, tally.only_second) == (turned.only_second, turned.only_first)
        assert tally.tested is not None
        assert turned.tested is not None
        assert (tally.tested.mended, tally.tested.p) == (turned.tested.broken, turned.tested.p)
        assert tally.kappa.value == pytest.approx(turned.kappa.value)


def test_a_run_beside_itself_agrees(runs: tuple[Run, Run]) -> None:
    tally = compare(runs[0], runs[0]).tallies[-1]
    assert (tally.only_first, tally.only_second, tally.kappa.value, tally.kappa.low) == (0, 0, 1.0, 1.0)
    assert tally.tested is not None
    assert tally.tested.p == 1.0


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(0, 300))
def test_the_exact_test_is_the_binomial_one(mended: int, broken: int) -> None:
    expected = binomtest(mended, mended + broken).pvalue if mended + broken else 1.0
    assert mcnemar(mended, broken) == pytest.approx(expected, rel=1e-6)


def test_many_flips_make_no_overflow() -> None:
    assert mcnemar(3000, 3000) == 1.0
    assert mcnemar(6000, 0) == 0.0


async def test_a_text_asked_under_all_policies_has_one_verdict(tmp_path: Path) -> None:
    benign = (written(tmp_path, "one", area="benign"),)
    script = {"rude": 0.2, "loud": contains("stone", score=0.95)}
    found = compare(await ran(tmp_path / "A", "", benign, script=script), await ran(tmp_path / "B", "", benign, script={"*": 0.6}))
    (tally,) = found.tallies
    assert (tally.texts, tally.both, tally.only_first, tally.only_second) == (8, 3, 0, 5)
    rude, loud = sorted(found.policies, key=lambda each: each.policy, reverse=True)
    assert (rude.only_first, rude.only_second, rude.distance) == (0, 8, pytest.approx(0.4))
    assert (loud.only_first, loud.only_second, loud.thresholds) == (3, 0, (0.9, 0.9))


def test_units_are_drawn_together(runs: tuple[Run, Run]) -> None:
    places = {(each.set, each.item): "same" if each.set == "one" else f"{each.item}" for each in runs[0].found.values()}
    found = compare(*runs, places)
    assert found.drawn_by_unit
    assert found.tallies[0].kappa.low == found.tallies[0].kappa.high  # one unit: every draw is the whole set
    assert found.tallies[1].kappa.low < found.tallies[1].kappa.high


def test_what_one_run_lacks_or_could_not_judge_is_left_out_and_told(runs: tuple[Run, Run]) -> None:
    first, second = runs
    keys = list(second.found)
    holey = dict(second.found)
    del holey[keys[0]]
    holey[keys[1]] = replace(holey[keys[1]], score=None, error="timeout")
    found = compare(first, replace(second, found=holey))
    assert (len(found.pairs), found.alone, found.failed) == (14, 1, 1)
    assert "Left out: 1 judged by one run only or under other policies, 1 that a run could not judge." in markdown(found)


def test_runs_over_other_data_or_policies_are_refused(runs: tuple[Run, Run]) -> None:
    first, second = runs
    other_set = replace(second.info, sets=(replace(second.info.sets[0], sha256="0"), second.info.sets[1]))
    with pytest.raises(GuardrailError, match="the set one is another file in the second run"):
        compare(first, replace(second, info=other_set))
    other_policy = replace(second.info, policies=(replace(second.info.policies[0], digest="0"), second.info.policies[1]))
    with pytest.raises(GuardrailError, match=r"the policy rude has another text in the second run; .* --versions"):
        compare(first, replace(second, info=other_policy))
    with pytest.raises(GuardrailError, match="no text in common"):
        compare(first, replace(second, found={}))


async def test_versions_of_a_policy_are_compared_when_asked_for(tmp_path: Path) -> None:
    sets = (written(tmp_path, "one"),)
    first = await ran(tmp_path / "A", "stone", sets)
    second = await ran(tmp_path / "B", "shout", sets, policies=(policy("rude", body="newer"), LOUD))
    found = compare(first, second, versions=True)
    assert len(found.pairs) == 8
    assert "Policies with another text in B: rude." in markdown(found)


def test_reports_hold_ids_and_figures_and_no_text_of_the_data(comparison: Comparison) -> None:
    table, whole, drawn = markdown(comparison, plot="a.svg"), json.dumps(document(comparison)), picture(comparison)
    assert "| one | 8 | 1 | 2 | 2 | 3 |" in table
    assert "| one | 3 | 1 | 0.62 |" in table
    assert "`one-1`" in table
    assert len(json.loads(whole)["flips"]) == 8
    for told in (table, whole, drawn):
        assert not any(text in told.replace("knows-stone", "").replace("knows-shout", "") for text, _ in TEXTS)


def test_the_picture_is_one_whole_svg_that_refers_to_nothing(comparison: Comparison) -> None:
    drawn = ET.fromstring(picture(comparison))
    assert drawn.tag.endswith("svg")
    assert "href" not in picture(comparison)
    names = "{http://www.w3.org/2000/svg}"
    assert len(drawn.findall(f".//{names}circle")) == 16
    assert len(drawn.findall(f".//{names}polyline")) == 4


async def test_the_command_prints_and_writes_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = (written(tmp_path, "one"),)
    await ran(tmp_path / "A", "stone", sets)
    await ran(tmp_path / "B", "shout", sets)
    monkeypatch.setenv("GUARDRAIL_DATA", str(tmp_path))
    out = tmp_path / "out"
    told = CliRunner().invoke(commands, ["evaluate", "compare", str(tmp_path / "A"), str(tmp_path / "B"), "--out", str(out)])
    assert told.exit_code == 0, told.output
    assert told.output.startswith("# Two runs compared")
    assert "by bootstrap over units" in told.output
    assert {path.name for path in out.iterdir()} == {"comparison.md", "comparison.json", "comparison.svg"}
    assert "](comparison.svg)" in (out / "comparison.md").read_text()
    as_json = CliRunner().invoke(commands, ["evaluate", "compare", str(tmp_path / "A"), str(tmp_path / "B"), "--json"])
    assert json.loads(as_json.output) == json.loads((out / "comparison.json").read_text())
