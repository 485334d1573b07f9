"""A version on trial takes the place of the one in force whole and told, or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from policy_cases import DOCUMENT

from guardrail.cli import policy as command
from guardrail.cli import policy_texts
from guardrail.errors import GuardrailError, PolicyError
from guardrail.policy import promotion, writer
from guardrail.policy.document import parse, read
from guardrail.policy.watch import Watched
from guardrail.testing import ScriptedClassifier
from guardrail.types import Score

DRAFT = DOCUMENT.replace("at a moderate strictness level", "at a strict level").replace("threshold: 0.6", "threshold: 0.5")


class Reader:
    """Scores by the text, and one text otherwise under the new version."""

    def __init__(self) -> None:
        self.under_new: dict[str, float] = {}

    def classifier(self) -> ScriptedClassifier:
        reader = self

        class Reading(ScriptedClassifier):
            def _answer(self, request: object) -> object:
                text = request.text  # type: ignore[attr-defined]
                score = 0.9 if "estate" in text else 0.1
                if "strict level" in request.policy.body:  # type: ignore[attr-defined]
                    score = reader.under_new.get(text, score)
                return score if not 0 <= score <= 1 else Score(score, "scripted")

        return Reading()


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    made = Reader()

    @asynccontextmanager
    async def opened(name: str, config_path: object = None):
        del name, config_path
        yield made.classifier()

    monkeypatch.setattr(policy_texts, "chosen_classifier", opened)
    return made


class Home:
    def __init__(self, folder: Path) -> None:
        self.target, self.draft, self.data = folder / "policies" / "used_cars.md", folder / "draft.md", folder / "texts.jsonl"
        self.target.parent.mkdir()
        self.target.write_text(DOCUMENT)
        self.draft.write_text(DRAFT)
        self.texts = [f"a text about teapot {number}" for number in range(95)] + [f"an estate for {number}" for number in range(5)]
        self.data.write_text("".join(json.dumps({"text": text, "id": f"t{place}"}) + "\n" for place, text in enumerate(self.texts)))

    def promote(self, *more: str) -> Result:
        arguments = ["promote", "used_cars", "--candidate", self.draft, "--folder", self.target.parent, "--data", self.data, *more]
        return CliRunner().invoke(command.policy, [str(each) for each in arguments], catch_exceptions=False)

    def compare(self, *more: str) -> Result:
        arguments = ["compare", self.target, self.draft, "--data", self.data, *more]
        return CliRunner().invoke(command.policy, [str(each) for each in arguments], catch_exceptions=False)


@pytest.fixture
def home(tmp_path: Path, reader: Reader) -> Iterator[Home]:
    del reader
    made = Home(tmp_path)
    yield made
    assert [path.name for path in made.target.parent.iterdir()] == ["used_cars.md"]  # nothing is left lying about


def test_a_candidate_within_its_bounds_is_put_in_force_and_told(home: Home, reader: Reader) -> None:
    reader.under_new = {home.texts[0]: 0.7, home.texts[99]: 0.2}
    home.target.chmod(0o640)
    before = Watched((home.target.parent,)).state()
    done = home.promote("--change", "Stricter about prices")
    assert done.exit_code == 0, done.output
    now = read(home.target)
    assert (now.version, now.digest, now.threshold) == ("1.3.0", parse(DRAFT).digest, 0.5)
    newest, *older = now.changes
    assert newest.version == "1.3.0"
    assert newest.text == "Stricter about prices (own tests 2 of 2; of 100 texts 1 more flagged, 1 released.)"
    assert [each.version for each in older] == ["1.2.0", "1.0.0"]
    assert home.target.stat().st_mode & 0o777 == 0o640
    assert Watched((home.target.parent,)).state() != before


REFUSALS = {
    "own tests": (["--change", "x"], {"My estate, 2011, 900 or near offer": 0.1}, "passes 1 of 2 of its tests"),
    "flips": (["--change", "x"], {f"a text about teapot {number}": 0.8 for number in range(6)}, "6 of 100 verdicts change, 5.0% may"),
    "unjudged": (["--change", "x"], {f"a text about teapot {number}": 7.0 for number in range(6)}, "6 of them could not be judged"),
    "agreement": (["--change", "x", "--min-agreement", "0.9"], {"an estate for 0": 0.1}, "kappa of 0.884, at least 0.9"),
    "too few": (["--change", "x", "--min-texts", "101"], {}, "100 texts were judged by both versions, at least 101"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_candidate_that_fails_a_test_or_a_bound_is_refused_and_nothing_is_written(home: Home, reader: Reader, name: str) -> None:
    more, reader.under_new, reason = REFUSALS[name]
    refused = home.promote(*more)
    assert (refused.exit_code, home.target.read_text()) == (1, DOCUMENT)
    assert reason in refused.output
    assert refused.output.startswith("refused: ")


def test_a_candidate_need_not_pass_more_of_its_tests_than_the_version_in_force(home: Home, reader: Reader) -> None:
    ours = DOCUMENT.replace("My estate, 2011", "My van, 2011")  # which the reader takes for harmless
    home.target.write_text(ours)
    home.draft.write_text(ours.replace("threshold: 0.6", "threshold: 0.5"))
    refused = home.promote("--change", "x", "--min-rate", "0.9")
    assert (refused.exit_code, home.target.read_text()) == (1, ours)
    assert "passes 1 of 2 of its tests, under 90.0%" in refused.output
    worse = ours.replace("threshold: 0.6", "threshold: 0.05")  # flags the harmless one, too
    home.draft.write_text(worse.replace("at a moderate strictness level", "at a strict level"))
    reader.under_new = {"My van, 2011, 900 or near offer": 0.01}
    assert "passes 0 of 2 of its tests, under 50.0%" in home.promote("--change", "x", "--max-flips", "1").output
    home.draft.write_text(ours.replace("threshold: 0.6", "threshold: 0.5"))
    assert home.promote("--change", "x").exit_code == 0


def test_what_could_not_be_judged_lowers_no_bar(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def opened(name: str, config_path: object = None):
        del name, config_path
        yield ScriptedClassifier({"*": lambda text: 7.0 if "near offer" in text else 0.1})

    monkeypatch.setattr(policy_texts, "chosen_classifier", opened)
    assert "under 90.0%" in home.promote("--change", "x").output


def test_another_threshold_of_either_stage_is_something_to_promote() -> None:
    for thresholds in ("{input: 0.6, output: 0.5}", "{input: 0.5, output: 0.6}"):
        draft = parse(DOCUMENT.replace("threshold: 0.6", f"threshold: {thresholds}"))
        assert list(promotion.faults(parse(DOCUMENT), draft)) == []
    (same,) = promotion.faults(parse(DOCUMENT), parse(DOCUMENT.replace("threshold: 0.6", "threshold: {input: 0.6, output: 0.6}")))
    assert "nothing to promote" in same


@pytest.mark.parametrize(
    ("draft", "reason"),
    [
        (DOCUMENT, "there is nothing to promote"),
        (DRAFT.replace("id: used_cars", "id: new_cars"), "is a version of 'new_cars'"),
        (DRAFT.replace("- 1.0.0 (2026-01-01): First version.\n", ""), "lacks the entry 1.0.0"),
        (DRAFT.split("## Tests")[0] + "## Changes\n" + DRAFT.split("## Changes\n")[1], "has no tests"),
    ],
)
def test_a_file_that_is_no_successor_is_refused(home: Home, draft: str, reason: str) -> None:
    home.draft.write_text(draft)
    refused = home.promote("--change", "x")
    assert (refused.exit_code, home.target.read_text()) == (1, DOCUMENT)
    assert reason in refused.output


def test_a_candidate_that_leaves_a_stage_is_refused_unless_that_is_wanted_and_counts_there_as_released(home: Home) -> None:
    home.draft.write_text(DRAFT.replace("applies_to: [input, output]", "applies_to: [input]"))
    answers = [json.dumps({"text": f"an estate {number}", "id": f"a{number}", "kind": "llm_response"}) + "\n" for number in range(100)]
    refused = home.promote("--change", "x")
    assert (refused.exit_code, home.target.read_text()) == (1, DOCUMENT)
    assert "does not judge output, which version 1.2.0 does; say --narrow if it is to be judged no more" in refused.output
    home.data.write_text(home.data.read_text() + "".join(answers))
    refused = home.promote("--change", "x", "--narrow")
    assert (refused.exit_code, home.target.read_text()) == (1, DOCUMENT)
    assert "100 of 200 verdicts change" in refused.output
    assert home.promote("--change", "x", "--narrow", "--max-flips", "0.5").exit_code == 0
    assert [stage.value for stage in read(home.target).applies_to] == ["input"]


def test_a_candidate_that_asks_for_the_prompt_is_not_promoted_on_texts_without_one(home: Home) -> None:
    home.draft.write_text(DRAFT.replace("language: en", "language: en\njudge_with: prompt"))
    with pytest.raises(GuardrailError, match="there is no answer among the texts"):
        home.promote("--change", "x")
    rows = [{"text": f"text {number}", "id": f"a{number}", "kind": "llm_response", "context": "any cars?"} for number in range(100)]
    home.data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert home.promote("--change", "x").exit_code == 0


def test_without_a_word_about_the_change_or_for_trial_nothing_is_written(home: Home) -> None:
    with pytest.raises(GuardrailError, match=r"say in one line what 1\.3\.0 changes"):
        home.promote()
    with pytest.raises(GuardrailError, match="say in one line"):
        home.promote("--change", "two\nlines")
    assert "would become version 1.3.0 (now 1.2.0)" in home.promote("--change", "x", "--dry-run").output
    assert home.target.read_text() == DOCUMENT


def test_a_candidate_that_tells_its_own_version_is_taken_to_the_byte(home: Home) -> None:
    told = DRAFT.replace("version: 1.2.0", "version: 2.0.0").replace("## Changes\n\n", "## Changes\n\n- 2.0.0 (2026-03-01): Strict.\n")
    home.draft.write_text(told)
    with pytest.raises(GuardrailError, match=r"has an entry of 2\.0\.0 already"):
        home.promote("--change", "x")
    assert home.promote().exit_code == 0
    assert home.target.read_text() == told


def test_policies_are_not_written_into_the_package(home: Home) -> None:
    arguments = ["promote", "used_cars", "--candidate", str(home.draft)]
    with pytest.raises(GuardrailError, match="name the folder of your policies"):
        CliRunner().invoke(command.policy, arguments, catch_exceptions=False)


def test_a_comparison_tells_flips_both_ways_and_quotes_nothing_unasked(home: Home, reader: Reader, tmp_path: Path) -> None:
    reader.under_new = {home.texts[0]: 0.7, home.texts[1]: 0.55, home.texts[99]: 0.2}
    told = json.loads(home.compare("--json").output)
    (found,) = told["classifiers"]
    assert (told["old"]["version"], told["new"]["threshold"], found["texts"], found["unjudged"]) == ("1.2.0", 0.5, 100, 0)
    assert {name: rate["hits"] for name, rate in found["rates"].items()} == {
        "flagged_by_old": 5,
        "flagged_by_new": 6,
        "released": 1,
        "caught": 2,
        "changed": 3,
    }
    assert found["rates"]["changed"]["interval"] == pytest.approx([0.010254, 0.084526], abs=1e-5)
    assert [each["id"] for each in found["changed"]] == ["texts:t99", "texts:t0", "texts:t1"]
    plain, quoted = home.compare("--out", str(tmp_path / "out")), home.compare("--show-text")
    assert "teapot" not in plain.output + json.dumps(told)
    assert "| caught | 2.0% | 0.6% to 7.0% | 2 of 100 |" in plain.output
    assert "a text about teapot 0 |" in quoted.output
    assert (tmp_path / "out" / "policy_comparison.md").read_text() == plain.output
    assert home.target.read_text() == DOCUMENT


def test_a_version_is_named_by_file_id_or_id_and_version(home: Home) -> None:
    folder = home.target.parent
    for name in ("used_cars", "used_cars@1.2.0", str(home.target)):
        assert policy_texts.versioned(name, folder).version == "1.2.0"
    with pytest.raises(GuardrailError, match=r"is version 1\.2\.0, not 1\.1\.0"):
        policy_texts.versioned("used_cars@1.1.0", folder)
    with pytest.raises(GuardrailError, match="no policy 'bikes'"):
        policy_texts.versioned("bikes", folder)


def test_a_file_that_changed_meanwhile_or_cannot_be_written_stays_as_it_is(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GuardrailError, match="was changed meanwhile"):
        promotion.replace_file(home.target, "new", before=b"other")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(GuardrailError, match="No space left"):
        promotion.replace_file(home.target, "new", before=DOCUMENT.encode())
    assert home.target.read_text() == DOCUMENT


@pytest.mark.parametrize(
    ("current", "candidate", "step", "expected"),
    [
        ("1.2.3", "1.2.3", "patch", "1.2.4"),
        ("1.2.3", "1.0.0", "minor", "1.3.0"),
        ("1.2.3", "1.2.3", "major", "2.0.0"),
        ("1.2.3", "1.2.10", "minor", "1.2.10"),
        ("1.2.3", "1.3.0-rc1", "minor", "1.3.0"),
    ],
)
def test_the_next_version_is_the_candidates_or_a_step(current: str, candidate: str, step: promotion.Step, expected: str) -> None:
    assert promotion.next_version(current, candidate, step) == expected


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("text", [DOCUMENT, DOCUMENT.split("- 1.2.0 (")[0], DOCUMENT.split("\n## Changes")[0], DOCUMENT.rstrip("\n")])
def test_a_change_is_the_newest_entry_and_all_else_stays_to_the_byte(text: str, end: str) -> None:
    text = text.replace("\n", end)
    changed = writer.with_change(text, "1.3.0", "2026-03-01", "Clearer.")
    after, before = parse(changed), parse(text)
    assert [each.version for each in after.changes] == ["1.3.0", *(each.version for each in before.changes)]
    assert (after.version, after.digest, after.tests) == ("1.3.0", before.digest, before.tests)
    kept = [line for line in changed.split(end) if "1.3.0" not in line and line]
    assert [line for line in text.split(end) if line and line != "version: 1.2.0"] == [line for line in kept if line in text.split(end)]


def test_a_change_that_would_be_read_otherwise_is_refused() -> None:
    with pytest.raises(PolicyError, match="P016"):
        writer.with_change(DOCUMENT, "1.3.0", "2026-03-01", "One.\n- 9.9.9 (2026-01-01): Two.")
    with pytest.raises(PolicyError, match="P016"):
        writer.with_change(DOCUMENT.replace("version: 1.2.0", '"version": 1.2.0'), "1.3.0", "2026-03-01", "One.")
