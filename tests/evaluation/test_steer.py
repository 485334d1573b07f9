"""Steerability probes: a judge that reads the policy passes them, one that is blind to it does not. Own mild text only."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from guardrail.cli.evaluate_steer import steer as command
from guardrail.engine.embedded.statements import statements_of
from guardrail.errors import ClassifierError
from guardrail.evaluation.baseline_tfidf import Example, TfidfClassifier
from guardrail.evaluation.dataset import ANSWER, Item
from guardrail.evaluation.steer import Rate, Sample, Steering, labelled_samples, own_samples, steer
from guardrail.evaluation.steer_policies import LENGTHS, carved, inverted, material, off_topic, paraphrased, shortened
from guardrail.evaluation.steer_report import bars, markdown, summary
from guardrail.policy.registry import load_folder, shipped_folder
from guardrail.testing import ScriptedClassifier
from guardrail.training.rows import own_rows
from guardrail.training.variants import Wordings
from guardrail.types import ClassifyRequest, Policy, Score, Stage

POLICIES = load_folder(shipped_folder())
HATE = next(policy for policy in POLICIES if policy.id == "hate_speech")
SAMPLES = own_samples(POLICIES)


class Reader:
    """Knows every sample's label and reads off the policy's text which question is asked."""

    id = "reader"

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = {(sample.area, sample.text): sample for sample in samples}

    async def prepare(self, policies: Sequence[Policy]) -> None:
        """Nothing to do."""

    async def classify(self, requests: Sequence[ClassifyRequest], *, deadline: float) -> list[Score | ClassifierError]:
        """Right answers."""
        found = [self._samples.get((self._area(request.policy), request.text)) for request in requests]
        flags = [sample is not None and self._violates(request.policy, sample) for request, sample in zip(requests, found, strict=True)]
        return [Score(float(flag), self.id) for flag in flags]

    async def aclose(self) -> None:
        """Nothing to free."""

    @staticmethod
    def _area(policy: Policy) -> str:
        return next((known.id for known in POLICIES if policy.id.startswith(known.id)), "off_topic")

    @staticmethod
    def _violates(policy: Policy, sample: Sample) -> bool:
        if "turned round" in policy.overview:
            return not sample.label
        if "one thing that this policy looks for" in policy.overview:
            return bool(sample.label) and policy.labels[0].includes[0].name == sample.criterion
        name = material()["groups"].get(sample.group, {"name": "nobody"})["name"]
        return bool(sample.label) and f"aimed at {name}" not in policy.overview


async def _blind() -> Steering:
    harm = [Example(row.text, int(any(label for label, _ in row.known.values())), row.unit) for row in own_rows(templates=300)][::6]
    judge = TfidfClassifier.train(harm, folds=2)
    return await steer(judge, [HATE], [sample for sample in SAMPLES if sample.area == HATE.id])


async def test_an_answer_is_flagged_at_the_threshold_of_answers_under_the_variants_too() -> None:
    policy = replace(HATE, threshold=0.8, output_threshold=0.4)
    rows = [Item("a", HATE.id, "as prompt", 1), Item("b", HATE.id, "as answer", 1, kind=ANSWER)]
    samples = labelled_samples(rows, [policy])
    assert [sample.stage for sample in samples] == [Stage.INPUT, Stage.OUTPUT]
    found = await steer(ScriptedClassifier({"*": 0.5}), [policy], samples)
    assert (found.flip.hits, found.flip.of) == (0, 1)  # only the answer is flagged, and turned round it still is
    assert {(each.recall.hits, each.recall.of) for each in found.lengths} <= {(1, 2), (0, 0)}


async def test_a_judge_that_reads_the_policy_passes_every_probe() -> None:
    told: list[tuple[int, int]] = []
    found = await steer(Reader(SAMPLES), POLICIES, SAMPLES, report=lambda done, total: told.append((done, total)))
    assert summary(found) == {
        "inversion_flip_rate": 1.0,
        "inverted_adopted": 1.0,
        "off_topic_false_flags": 0.0,
        "carve_out_selectivity": 100.0,
        "paraphrase_stability": 1.0,
        "criterion_selectivity": 100.0,
    }
    assert all(bar["met"] for bar in bars(found))
    assert [each.recall.share for each in found.lengths] == [1.0] * len(LENGTHS)
    assert told[-1][0] == told[-1][1] > 1000
    assert len(found.carve_outs) == len(material()["groups"])


async def test_a_policy_blind_model_scores_badly() -> None:
    found = await _blind()
    assert found.inversions[0].flagged.hits >= 10
    assert found.flip.share == 0
    assert found.selectivity == 0
    assert found.false_flags.share > 0.3
    assert found.criterion_selectivity == 0
    assert found.stable.share == 1  # so stability alone shows nothing
    assert "| inversion flip rate: positives released | 0%" in markdown(found)
    assert {bar["name"]: bar["met"] for bar in bars(found)} == {
        "inversion_flip_rate": False,
        "off_topic_false_flags": False,
        "carve_out_selectivity": False,
    }
    assert markdown(found).count("**missed**") == 3


async def test_a_model_that_never_flags_an_inverted_policy_flips_without_following() -> None:
    class Shy(Reader):
        """Knows what is wanted of it, and says no to every policy that is turned round."""

        @staticmethod
        def _violates(policy: Policy, sample: Sample) -> bool:
            return "turned round" not in policy.overview and Reader._violates(policy, sample)

    found = await steer(Shy(SAMPLES), [HATE], [sample for sample in SAMPLES if sample.area == HATE.id])
    assert (found.flip.share, found.adopted.share) == (1.0, 0.0)
    assert "negatives adopted: flagged once inverted | 0%" in markdown(found)


async def test_what_cannot_be_judged_stops_the_probe() -> None:
    class Silent(Reader):
        async def classify(self, requests: Sequence[ClassifyRequest], *, deadline: float) -> list[Score | ClassifierError]:
            return [ClassifierError("timeout", "too slow")] * len(requests)

    with pytest.raises(ClassifierError, match="too slow"):
        await steer(Silent(SAMPLES), [HATE], SAMPLES[:4])


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.id)
def test_variants_of_a_policy_read_as_policies_and_say_what_they_should(policy: Policy) -> None:
    turned = inverted(policy)
    assert [one.name for one in turned.labels[0].excludes] == [one.name for one in policy.labels[0].includes]
    assert [one.name for one in turned.labels[0].includes][1:] == [one.name for one in policy.labels[0].excludes]
    assert carved(policy, "women", "women").labels[0].excludes[0].name == "Carve-out"
    sizes = [sum(bool(line.strip()) for line in shortened(policy, lines).body.splitlines()) for lines in LENGTHS]
    assert sizes[0] == 1
    assert sizes[1] == 10
    assert 25 <= sizes[2] <= 30
    assert shortened(policy, 80) is policy
    assert len(paraphrased(policy)) == 2
    digests = {each.digest for each in (policy, turned, *paraphrased(policy), *(shortened(policy, lines) for lines in LENGTHS))}
    assert len(digests) == 4 + len(LENGTHS) - 1
    assert all(len(statements_of(each)) >= 2 for each in (turned, *off_topic()))


def test_no_probe_text_or_wording_is_learnt_from() -> None:
    wordings = Wordings.load()
    learnt = {row.text.lower() for row in [*own_rows(templates=3000), *wordings.topic_rows()]}
    assert not learnt & {sample.text.lower() for sample in SAMPLES}
    drawn = json.dumps(wordings._document, ensure_ascii=False)
    for entry in material()["areas"].values():
        assert not any(text in drawn for text in (entry["sentence"], *entry["paraphrases"]))
    assert not {policy.title for policy in off_topic()} & {title for topic in wordings.topics.values() for title in topic["titles"]}


def test_a_labelled_row_is_about_a_group_when_its_labels_name_exactly_one() -> None:
    rows = [
        Item("1", "hate_speech", "a", 1, ("hateful", "women")),
        Item("2", "hate_speech", "b", 1, ("women", "Muslims")),
        Item("3", "spam", "c", 1),
        Item("4", "hate_speech", "d", None),
    ]
    assert labelled_samples(rows, [HATE]) == [Sample("a", "hate_speech", 1, "women"), Sample("b", "hate_speech", 1)]


@given(st.integers(0, 500), st.integers(0, 500))
def test_the_interval_holds_the_share(hits: int, misses: int) -> None:
    rate = Rate(hits, hits + misses)
    low, high = rate.interval
    assert 0 <= low <= (rate.share if rate.share is not None else low) + 1e-12
    assert (rate.share or 0) <= high + 1e-12
    assert high <= 1


def test_the_command_probes_the_embedded_classifier(tmp_path: Path) -> None:
    rows = tmp_path / "mild.jsonl"
    claims = ["Women ruin every party.", "Keep immigrants out of our club."]
    lines = [{"text": text, "label": 1, "area": "hate_speech", "labels": [label]} for text, label in zip(claims, ("women", "immigrants"))]  # noqa: B905
    rows.write_text("\n".join(json.dumps(line) for line in [*lines, {"text": "It rains.", "label": 0, "area": "hate_speech"}]))
    out = tmp_path / "steer.json"
    result = CliRunner().invoke(command, ["--data", str(rows), "--policy", "hate_speech", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "| inversion flip rate: positives released |" in result.output
    told = json.loads(out.read_text())
    assert told["samples"] == 3
    assert {bar["name"] for bar in told["bars"]} <= set(told["summary"])
    nothing = CliRunner().invoke(command, ["--data", str(rows), "--policy", "violence"])
    assert nothing.exit_code == 2
    assert "nothing to probe with" in nothing.output
