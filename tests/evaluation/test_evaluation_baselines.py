"""The two floors of every table: a list of words, and TF-IDF with logistic regression, which has never read a policy."""

import builtins
import importlib.util
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from guardrail.cli import commands
from guardrail.errors import ClassifierError, GuardrailError
from guardrail.evaluation.baseline_keywords import KeywordClassifier, open_keywords
from guardrail.evaluation.baseline_tfidf import Example, TfidfClassifier, examples
from guardrail.evaluation.dataset import DataSet, Item
from guardrail.evaluation.predictions import read_run
from guardrail.evaluation.run import Plan
from guardrail.interfaces import Classifier
from guardrail.policy.registry import load_folder, shipped_folder
from guardrail.testing import policy
from guardrail.types import ClassifyRequest, Criterion, Label, Policy, Score, Span

GARDEN = policy(
    "garden",
    labels=(
        Label("G", "Gardens", (Criterion("Flowers", "Content about growing tulips or roses.", 1),), (Criterion("Trees", "oaks", 2),), 0),
    ),
    body="garden",
)
TRAINS = policy("trains", body="trains")
FLOWERS = ["The tulip is open", "Roses grow by the wall", "A tulip and a rose", "Plant the roses in May", "Tulips come in spring"]
OTHERS = ["The train is late", "We met at the station", "A bus and a train", "Buy the ticket in May", "Trains come in the morning"]
ROWS = [
    Example(f"{text}, {n}", label, unit=f"{label}{n}") for label, texts in ((1, FLOWERS), (0, OTHERS)) for n, text in enumerate(texts * 4)
]


async def scores(classifier: Classifier, asked: Policy, texts: Sequence[str]) -> list[float]:
    await classifier.prepare([asked])
    answers = await classifier.classify([ClassifyRequest(asked, text) for text in texts], deadline=time.monotonic() + 60)
    assert all(isinstance(answer, Score) and answer.classifier == classifier.id for answer in answers)
    return [answer.value for answer in answers if isinstance(answer, Score)]


@pytest.mark.parametrize("classifier", [KeywordClassifier(), TfidfClassifier.train(ROWS)])
async def test_a_baseline_keeps_to_the_contract_of_classifiers(classifier: Classifier) -> None:
    unknown, late = policy("unknown", body="never prepared"), time.monotonic() - 1
    await classifier.prepare([GARDEN])
    first, second = await classifier.classify(
        [ClassifyRequest(unknown, "a"), ClassifyRequest(GARDEN, "a tulip")], deadline=time.monotonic() + 60
    )
    assert isinstance(first, ClassifierError)
    assert first.code == "not_prepared"
    assert isinstance(second, Score)
    (expired,) = await classifier.classify([ClassifyRequest(GARDEN, "a tulip")], deadline=late)
    assert isinstance(expired, ClassifierError)
    assert expired.code == "timeout"
    assert await classifier.classify([], deadline=late) == []
    assert await scores(classifier, GARDEN, ["", "!?", "é 日本 \ud800"])
    await classifier.aclose()
    await classifier.aclose()


async def test_words_of_what_a_policy_includes_raise_its_score_and_no_others() -> None:
    found = await scores(
        KeywordClassifier(), GARDEN, ["the oaks", "One TULIP!", "tulips, tulip", "a rose, a tulip", "roses growing: flowers"]
    )
    assert found == pytest.approx([0, 1 / 3, 1 / 3, 1 / 2, 3 / 5])


async def test_the_first_word_found_and_its_criterion_are_told() -> None:
    classifier = KeywordClassifier()
    await classifier.prepare([GARDEN])
    (score,) = await classifier.classify([ClassifyRequest(GARDEN, "my tulip")], deadline=time.monotonic() + 60)
    assert isinstance(score, Score)
    assert (score.span, score.criterion) == (Span(3, 8), "Flowers")


async def test_a_given_list_stands_in_for_the_policys_words_and_changes_the_id() -> None:
    listed = open_keywords({"words": {"garden": ["Hedges"]}})
    assert await scores(listed, GARDEN, ["a tulip", "a hedge"]) == pytest.approx([0, 1 / 3])
    assert listed.id != KeywordClassifier().id == KeywordClassifier({}).id


async def test_a_given_list_is_of_its_own_policy_though_another_has_the_same_text() -> None:
    listed, twin = open_keywords({"words": {"garden": ["Hedges"]}}), replace(GARDEN, id="twin")
    await listed.prepare([GARDEN, twin])
    answers = await listed.classify([ClassifyRequest(each, "a hedge") for each in (GARDEN, twin)], deadline=time.monotonic() + 60)
    assert [answer.value for answer in answers if isinstance(answer, Score)] == pytest.approx([1 / 3, 0])


async def test_every_shipped_policy_has_words() -> None:
    classifier = KeywordClassifier()
    for each in load_folder(shipped_folder()):
        violating = " ".join(criterion.text for label in each.labels for criterion in label.includes)
        assert (await scores(classifier, each, [violating, "Good morning."]))[0] > 0.5


async def test_tfidf_tells_texts_of_its_subject_from_others() -> None:
    high, low = await scores(TfidfClassifier.train(ROWS), GARDEN, ["roses and a tulip", "the train to the station"])
    assert low < 0.3 < 0.7 < high


async def test_tfidf_is_blind_to_what_a_policy_says() -> None:
    classifier = TfidfClassifier.train(ROWS)
    turned = policy("garden", body="Everything but gardens.")
    assert await scores(classifier, GARDEN, FLOWERS) == await scores(classifier, turned, FLOWERS)


async def test_policies_with_rows_of_their_own_have_their_own_model() -> None:
    turned = [Example(row.text, 1 - row.label, row.unit, "trains") for row in ROWS]
    classifier = TfidfClassifier.train([*(Example(row.text, row.label, row.unit, "garden") for row in ROWS), *turned])
    (garden,) = await scores(classifier, GARDEN, ["roses and a tulip"])
    (trains,) = await scores(classifier, TRAINS, ["roses and a tulip"])
    (other,) = await scores(classifier, policy("other", body="other"), ["roses and a tulip"])
    assert trains < 0.3 < 0.7 < garden
    assert other == pytest.approx(0.5, abs=0.05)


async def test_a_training_row_is_scored_by_a_model_that_has_not_seen_its_unit() -> None:
    odd = Example("zebra", 1, unit="odd"), Example("zebra quagga", 1, unit="odd")
    found = await scores(TfidfClassifier.train([*ROWS, *odd]), GARDEN, ["zebra", "quagga"])
    assert found[0] < 0.6 < found[1]  # the unit's words are unknown to whoever judges "zebra"; "quagga" is no training row
    shared = [*odd, Example("zebra", 1, unit="another"), *(Example(f"zebra {n}", 1, unit="another") for n in range(9))]
    assert await scores(TfidfClassifier.train([*ROWS, *shared]), GARDEN, ["zebra"]) < [0.6]


async def test_the_same_rows_give_the_same_scores_and_id() -> None:
    one, two = TfidfClassifier.train(ROWS), TfidfClassifier.train(ROWS)
    assert await scores(one, GARDEN, OTHERS) == await scores(two, GARDEN, OTHERS)
    assert one.id == two.id != TfidfClassifier.train(ROWS[1:]).id


async def test_texts_without_words_and_policies_of_one_label_score_their_share() -> None:
    wordless = TfidfClassifier.train([Example("!", 1), Example("?", 0), Example("...", 0)])
    assert await scores(wordless, GARDEN, ["a rose"]) == pytest.approx([2 / 5])
    one_sided = TfidfClassifier.train([*ROWS, *(Example(f"{n} buses", 0, policy="trains") for n in range(8))])
    assert await scores(one_sided, TRAINS, ["a rose"]) == pytest.approx([1 / 10])


def test_rows_of_one_label_teach_nothing() -> None:
    with pytest.raises(GuardrailError, match="these 20 have not both"):
        TfidfClassifier.train([row for row in ROWS if row.label])


def test_without_scikit_learn_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sklearn" else builtins.__spec__)
    with pytest.raises(GuardrailError, match=r"needs scikit-learn: pip install 'guardrail\[train\]'"):
        TfidfClassifier.train(ROWS)


@pytest.mark.parametrize("name", ["keywords", "tfidf"])
def test_a_run_takes_a_baseline_by_its_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / "garden.jsonl"
    path.write_text(
        "".join(json.dumps({"text": row.text, "label": row.label, "area": "toxicity", "unit": row.unit}) + "\n" for row in ROWS)
    )
    asked = ["evaluate", "run", "--data", str(path), "--classifier", name, "--policy", "toxicity", "--out", str(tmp_path / "out")]
    run = CliRunner().invoke(commands, asked)
    assert run.exit_code == 0, run.output
    info, found = read_run(tmp_path / "out")
    assert info.classifier.startswith(f"{name}@sha256:")
    assert len(found) == len(ROWS)
    if name == "tfidf":  # each text by the model that has not seen it: the other texts tell the subjects apart
        assert min(each.score for each in found.values() if each.label) > max(each.score for each in found.values() if not each.label)


def test_rows_teach_the_policy_that_they_are_asked_under() -> None:
    items = (Item("1", "garden", "a", 1, unit="u", set="s"), Item("2", "benign", "b", 0, set="s"))
    plan = Plan((DataSet("s", "", items),), (GARDEN, TRAINS), {})
    assert examples(plan) == [Example("a", 1, "s:u", "garden"), Example("b", 0)]
