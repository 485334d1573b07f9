"""Contradictory examples: the same text under policies that disagree, in shares, orders and balance that a recipe sets."""

import gzip
import json
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tiny import tokenizer_json

from guardrail.cli.train import train as train_command
from guardrail.engine.embedded.statements import statements_of
from guardrail.engine.embedded.tokens import Tokens
from guardrail.errors import GuardrailError
from guardrail.policy.document import parse_prose
from guardrail.policy.registry import load_folder, shipped_folder
from guardrail.training import rows as rows_module
from guardrail.training.contradictory import HELD_GROUPS, HELD_USES, MIX, Builder, Contradictions
from guardrail.training.contradictory_sampler import ContradictorySampler, builder_rows
from guardrail.training.contrasts import contrast_rows, functions, subjects
from guardrail.training.labels import Aim, target
from guardrail.training.rows import TrainingRow, own_rows
from guardrail.training.sampler import Materials
from guardrail.training.spellings import SPELLINGS, spelled
from guardrail.training.triples import manifest, steps_of, survey, triples, write
from guardrail.training.variants import Wordings

WORDINGS = Wordings.load()
TOPICS = tuple(WORDINGS.topics)


def _labelled() -> list[TrainingRow]:
    """Stand-ins for what labelled sets say beside a text."""
    rows = []
    for number in range(30):
        mild = f"A mild remark, number {number}."
        rows += [
            TrainingRow(f"{mild} Rude.", {"toxicity": (1, 1.0), "hate_speech": (0, 1.0)}, "davidson", f"r{number}", agreement=2 / 3),
            TrainingRow(f"{mild} Very rude.", {"toxicity": (1, 1.0)}, "davidson", f"v{number}", agreement=1.0),
            TrainingRow(f"{mild} Kind.", {"toxicity": (0, 1.0)}, "davidson", f"k{number}", agreement=0.0),
            TrainingRow(f"{mild} You!", {"harassment": (1, 1.0)}, "convabuse", f"y{number}", addressed=True),
            TrainingRow(f"{mild} They.", {"harassment": (1, 1.0)}, "convabuse", f"t{number}", addressed=False),
            TrainingRow(f"{mild} Threat.", {"hate_speech": (1, 1.0)}, "hatemoji_build", f"h{number}", severity="threat"),
            TrainingRow(f"{mild} Attack.", {"hate_speech": (1, 1.0)}, "hatemoji_build", f"a{number}", severity="attack"),
        ]
        for ground in ("race", "religion"):
            known = {"hate_speech": (1, 1.0)}
            rows.append(TrainingRow(f"{mild} On {ground}.", known, "hatexplain", f"{ground}{number}", grounds=frozenset({ground})))
    return rows


ROWS = builder_rows([*own_rows(templates=300), *WORDINGS.topic_rows(), *_labelled()], WORDINGS)
BUILDER = Builder(ROWS, TOPICS, Contradictions(share=0.5))


def test_every_kind_of_step_sets_texts_against_policies_that_disagree() -> None:
    found = survey(BUILDER.step(1, number) for number in range(600))["kinds"]
    assert set(found) == set(MIX)
    for kind, counts in found.items():
        assert counts["opposed"] > 0.05 * counts["texts"], kind
        assert min(counts["positive"], counts["negative"]) > 0.1 * (counts["positive"] + counts["negative"]), kind
    assert found["group"]["opposed"] > 0.9 * found["group"]["texts"]


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_a_step_is_the_same_for_its_seed_and_number_and_is_balanced(seed: int, number: int) -> None:
    step = BUILDER.step(seed, number)
    assert step == BUILDER.step(seed, number)
    for place, aim in enumerate(step.aims):
        labels = Counter(answers[place][0] for answers in step.answers if answers[place] is not None)  # type: ignore[index]
        assert max(labels.values(), default=0) <= 3 * max(1, min(labels[0], labels[1])), aim
        assert all(answers[place] in (None, target(row, aim)) for row, answers in zip(step.rows, step.answers, strict=True))


def test_what_is_held_out_is_never_asked_in_training_and_always_in_testing() -> None:
    tested = Builder(ROWS, TOPICS, Contradictions(share=1.0), held_out=True)
    for builder, held_out in ((BUILDER, False), (tested, True)):
        aims = {aim for number in range(200) for aim in builder.step(3, number).aims}
        groups = {aim.name for aim in aims if aim.kind in ("scoped", "except_group")}
        uses = {aim.name.partition("/")[2] for aim in aims if aim.kind in ("function_only", "function_counted", "mention_except")}
        assert groups
        assert all((group in HELD_GROUPS) == held_out for group in groups)
        assert uses
        assert all((use in HELD_USES) == held_out for use in uses)
    assert not set(BUILDER.topics) & set(tested.topics)


@pytest.mark.parametrize("order", ["mixed", "rising", "falling", "blocks"])
def test_the_share_of_the_steps_and_their_order_are_the_recipes(order: str) -> None:
    recipe = Contradictions(share=0.4, order=order)  # type: ignore[arg-type]
    falls = [recipe.falls_on(step, 2000, 5) for step in range(2000)]
    first, last = sum(falls[:1000]), sum(falls[1000:])
    assert abs(first + last - 800) < 80
    assert {"rising": first < last - 200, "falling": first > last + 200}.get(order, abs(first - last) < 80)
    if order == "blocks":
        assert {sum(falls[start : start + 5]) for start in range(0, 2000, 5)} == {2}


def test_a_mixture_leaves_a_kind_out_and_a_recipe_that_cannot_be_is_refused() -> None:
    only = Builder(ROWS, TOPICS, Contradictions(share=1, mix={"use": 1.0}))
    assert only.kinds == ("use",)
    for wrong in ({"share": 1.5}, {"share": 0.6, "order": "rising"}, {"mix": {"moon": 1.0}}, {"criteria": 1}):
        with pytest.raises(ValueError, match=r"cannot be had|no contradiction steps|start at 2"):
            Contradictions(**wrong)
    with pytest.raises(ValueError, match="no kind of contradiction step"):
        Builder([], TOPICS, Contradictions(share=1))


def test_one_statement_has_every_use_and_its_label_follows_from_the_use() -> None:
    rows = contrast_rows(WORDINGS.group_names, seed=1)
    for subject in subjects():
        found = {row.function: row for row in rows if row.subject == subject}
        assert set(found) == {*functions(subject), "neutral"}
        counted, only, mention = (Aim(kind, f"{subject}/quote") for kind in ("function_counted", "function_only", "mention_except"))
        labels = {use: [target(row, aim)[0] for aim in (counted, only, mention)] for use, row in found.items()}  # type: ignore[index]
        assert labels["plain"] == [1, 0, 1]
        assert labels["quote"] == [1, 1, 0]
        assert labels["counter"] == [0, 0, 1]
        assert labels["neutral"] == [0, 0, 0]
    assert all("{" not in row.text for row in rows)
    assert len({row.text for row in rows}) == len(rows) > 3000


def test_held_out_contrasts_share_neither_statement_nor_frame_with_those_learnt() -> None:
    learnt = contrast_rows(WORDINGS.group_names, seed=1)
    kept = contrast_rows(WORDINGS.group_names, seed=1, held_out=True)
    assert not {row.text for row in learnt} & {row.text for row in kept}
    assert not {row.unit for row in learnt if row.function != "neutral"} & {row.unit for row in kept if row.function != "neutral"}


@pytest.mark.parametrize("spelling", range(len(SPELLINGS)))
def test_every_spelling_of_a_policy_reads_as_the_same_statements(spelling: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guardrail.training.spellings.SPELLINGS", (SPELLINGS[spelling], SPELLINGS[spelling]))
    random_ = random.Random(4)
    for aim in (Aim("area", "violence"), Aim("scoped", "women"), Aim("mention_except", "self_harm/news"), Aim("ground", "religion")):
        variant = WORDINGS.draw(aim, random_)
        while len(variant.statements) == 1:
            variant = WORDINGS.draw(aim, random_)
        read = statements_of(parse_prose(spelled(variant, random_)))
        assert sorted(one.text for one in read) == sorted(one.text for one in variant.statements)


def _data(folder: Path) -> Path:
    entries = [{"name": name, "train_ok": True, "licence": "MIT"} for name in rows_module._SETS]
    (folder / "SETS.json").write_text(json.dumps(entries))
    for name in rows_module._SETS:
        with gzip.open(folder / f"{name}.jsonl.gz", "wt") as lines:
            raw = {"id": "1", "area": "hate_speech", "text": f"a mild text of {name}", "label": 0, "labels": ["not"], "meta": {}}
            lines.write(json.dumps(raw) + "\n")
    return folder


def test_the_manifest_names_every_source_with_its_licence_and_what_is_our_reconstruction(tmp_path: Path) -> None:
    recipe = Contradictions(share=0.5)
    steps = list(steps_of(BUILDER, recipe, seed=2, steps=40))
    described = manifest(ROWS, recipe, survey(steps), seed=2, data=_data(tmp_path))
    assert "reconstruction" in described["note"]
    assert described["sources"]["hatexplain"] == {"rows": 60, "licence": "MIT"}
    assert described["sources"]["own:contrasts"]["licence"] == "Apache-2.0"
    assert sum(kind["steps"] for kind in described["kinds"].values()) == len(steps)
    count = write(tmp_path / "out", triples(steps, WORDINGS, seed=2), described)
    lines = [json.loads(line) for line in (tmp_path / "out" / "triples.jsonl").read_text().splitlines()]
    assert len(lines) == count == sum(kind["positive"] + kind["negative"] for kind in described["kinds"].values())
    labels: dict[str, set[int]] = {}
    for line in lines:
        labels.setdefault(line["content"], set()).add(line["label"])
    assert sum(found == {0, 1} for found in labels.values()) > 0.6 * len(labels)
    stranger = TrainingRow("x", {}, "ethos", "u")
    with pytest.raises(GuardrailError, match="ethos is not marked train_ok"):
        manifest([*ROWS, stranger], recipe, {}, seed=2, data=tmp_path)


def test_a_run_with_contradictory_examples_draws_the_steps_its_manifest_counts(tmp_path: Path) -> None:
    materials = Materials(WORDINGS, load_folder(shipped_folder()), Tokens.from_json(tokenizer_json()))
    rows = [*own_rows(templates=300), *WORDINGS.topic_rows(), *_labelled()]
    # Every family of the plain sampler needs rows: our own text stands in for the sets.
    rows += [TrainingRow(row.text, row.known, "red_instruct", f"p{n}") for n, row in enumerate(rows[:50])]
    recipe = Contradictions(share=0.5, order="blocks")
    one, two = (ContradictorySampler(rows, materials, recipe, seed=3, steps=20) for _ in range(2))
    for step in range(4):
        first, second = one.batch(step), two.batch(step)
        assert torch.equal(first.ids, second.ids)
        assert torch.equal(first.labels, second.labels)
        pairs, found = first.pairs.tolist(), first.labels.tolist()
        opposed = {text for text, _ in pairs if {label for (other, _), label in zip(pairs, found, strict=True) if other == text} == {0, 1}}
        assert opposed or not recipe.falls_on(step, 20, 3)
    digest = one.describe(_data(tmp_path), tmp_path / "contradictions.json")
    assert digest == two.describe(tmp_path, tmp_path / "again.json")
    described = json.loads((tmp_path / "contradictions.json").read_text())
    assert sum(kind["steps"] for kind in described["kinds"].values()) == 10


def test_the_command_writes_the_same_triples_for_the_same_seed(tmp_path: Path) -> None:
    data = _data(tmp_path)
    for name in ("a", "b"):
        arguments = ["contradictory", "--data", str(data), "--out", str(tmp_path / name), "--steps", "4", "--mix", "topic=0"]
        result = CliRunner().invoke(train_command, arguments)
        assert result.exit_code == 0, result.output
    first, second = ((tmp_path / name / "manifest.json").read_bytes() for name in ("a", "b"))
    assert first == second
    assert "topic" not in json.loads(first)["kinds"]
    result = CliRunner().invoke(train_command, ["contradictory", "--data", str(data), "--mix", "moon=1"])
    assert result.exit_code == 2
    assert "moon" in result.output
