"""Training: what may be learnt from, what a text's label is under policies that disagree, and a run that can be interrupted."""

import contextlib
import gzip
import json
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guardrail.engine.embedded.model import PolicyReader, ReaderConfig
from guardrail.engine.embedded.statements import statements_of
from guardrail.engine.embedded.tokens import Tokens
from guardrail.errors import GuardrailError
from guardrail.policy.registry import load_folder, shipped_folder
from guardrail.training import rows as rows_module
from guardrail.training.embedded import Plan, blend, fit, split, train_embedded
from guardrail.training.labels import Aim, target
from guardrail.training.rows import AREAS, TrainingRow, load_rows, own_rows
from guardrail.training.sampler import Materials, Sampler
from guardrail.training.trainer import Progress, Recipe, train
from guardrail.training.variants import MOST, Wordings, shipped_variant

TINY = ReaderConfig(vocab_size=64, hidden=32, heads=4, inner=64, trunk_layers=3, reader_layers=2, max_positions=160)


def _hateful(*groups: str, severity: str | None = None) -> TrainingRow:
    return TrainingRow("text", {"hate_speech": (1, 1.0), "toxicity": (1, 0.6)}, "set", "u", frozenset(groups), severity)


def _label(row: TrainingRow, aim: Aim) -> int | None:
    found = target(row, aim)
    return None if found is None else found[0]


def test_one_text_has_opposite_labels_under_policies_that_disagree() -> None:
    row = _hateful("women", severity="attack")
    assert _label(row, Aim("area", "hate_speech")) == 1
    assert _label(row, Aim("scoped", "women")) == 1
    assert _label(row, Aim("scoped", "muslims")) == 0
    assert _label(row, Aim("except_group", "women")) == 0
    assert _label(row, Aim("except_group", "muslims")) == 1
    assert _label(row, Aim("inverted", "hate_speech")) == 0
    assert _label(row, Aim("threats_only")) == 0
    assert _label(row, Aim("topic", "cooking")) == 0
    assert _label(row, Aim("area", "self_harm")) is None


def test_several_targets_and_unknown_ones_are_not_guessed() -> None:
    both = _hateful("women", "muslims")
    assert _label(both, Aim("scoped", "muslims")) == 1
    assert _label(both, Aim("except_group", "muslims")) is None
    assert _label(_hateful(), Aim("scoped", "women")) is None
    assert _label(_hateful(), Aim("except_group", "women")) is None


def test_rude_but_not_hateful_passes_where_swearing_is_allowed() -> None:
    rude = TrainingRow("text", {"hate_speech": (0, 0.5), "toxicity": (1, 1.0)}, "set", "u")
    assert _label(rude, Aim("area", "toxicity")) == 1
    assert target(rude, Aim("profanity_allowed")) == (0, 0.8)


def test_a_text_that_is_simply_elsewhere_is_no_positive_of_an_inverted_policy() -> None:
    own = rows_module.own_row({"text": "Beat the eggs.", "violates": []}, "own:x")
    assert _label(own, Aim("inverted", "hate_speech")) is None


def _data(folder: Path, **allowed: bool) -> Path:
    names = dict.fromkeys(rows_module._SETS, True) | allowed
    (folder / "SETS.json").write_text(json.dumps([{"name": name, "train_ok": ok} for name, ok in names.items()]))
    for name in rows_module._SETS:
        row = {
            "id": f"{name}-1", "source": name, "area": "hate_speech", "text": f"a mild text of {name}", "label": 0,
            "labels": ["not"], "meta": {"kind": "user_content"},
        }  # fmt: skip
        with gzip.open(folder / f"{name}.jsonl.gz", "wt") as lines:
            lines.write(json.dumps(row) + "\n")
    return folder


def test_a_set_that_may_not_train_shipped_weights_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(PermissionError, match="edos is not marked train_ok"):
        load_rows(_data(tmp_path, edos=False))


def test_every_row_carries_known_labels_with_weights(tmp_path: Path) -> None:
    rows = load_rows(_data(tmp_path))
    assert {row.source for row in rows} >= set(rows_module._SETS) - {"gptfuzzer"}
    for row in rows:
        assert all(label in (0, 1) and 0 < weight <= 1 for label, weight in row.known.values())


def test_our_own_text_is_labelled_for_all_areas() -> None:
    rows = list(own_rows(templates=200))
    assert all(set(AREAS) <= set(row.known) for row in rows)
    for area in AREAS:
        assert sum(row.known[area][0] for row in rows) >= 60, area


def test_no_policy_test_case_is_learnt_from() -> None:
    learnt = {" ".join(row.text.lower().split()) for row in own_rows(templates=9000)}
    tests = {" ".join(test.text.lower().split()) for policy in load_folder(shipped_folder()) for test in policy.tests}
    assert not learnt & tests


@given(st.integers(0, 10_000))
def test_variants_are_bounded_start_with_their_label_and_fill_every_placeholder(seed: int) -> None:
    wordings, random_ = _WORDINGS, random.Random(seed)
    aims = (
        Aim("area", "violence"),
        Aim("scoped", "women"),
        Aim("except_group", "jews"),
        Aim("inverted", "toxicity"),
        Aim("topic", "cooking"),
    )
    for aim in aims:
        variant = wordings.draw(aim, random_)
        assert 1 <= len(variant.statements) <= MOST
        assert variant.statements[0].kind == 0
        assert not any("{" in statement.text for statement in variant.statements)


_WORDINGS = Wordings.load()


def test_training_never_sees_the_held_out_wordings() -> None:
    held_out = Wordings.load(held_out=True)
    one_liners = _WORDINGS._document["areas"]["violence"]["one_liners"]
    seen = {_WORDINGS.draw(Aim("area", "violence"), random.Random(n)).statements[0].text for n in range(400)}
    kept = {held_out.draw(Aim("area", "violence"), random.Random(n)).statements[0].text for n in range(50)}
    assert one_liners[-1] in kept
    assert one_liners[-1] not in seen
    assert one_liners[0] in seen


def test_a_shipped_policy_keeps_all_its_includes() -> None:
    for policy in load_folder(shipped_folder()):
        includes = {s.text for s in statements_of(policy) if s.kind == 1}
        assert includes <= {s.text for s in shipped_variant(policy, random.Random(1)).statements}


def test_the_split_is_by_unit_and_always_the_same() -> None:
    rows = [TrainingRow(f"t{n}", {}, "s", f"s:{n // 4}") for n in range(2000)]
    learnt, kept = split(rows)
    assert not {row.unit for row in learnt} & {row.unit for row in kept}
    assert 40 < len(kept) < 200
    assert split(rows) == (learnt, kept)


def test_platt_scaling_finds_slope_and_offset() -> None:
    torch.manual_seed(0)
    logits = torch.randn(20_000) * 3
    labels = torch.bernoulli(torch.sigmoid(0.5 * logits - 1.0))
    found = fit(logits, labels, torch.ones_like(labels))
    assert found.slope == pytest.approx(0.5, abs=0.03)
    assert found.offset == pytest.approx(-1.0, abs=0.06)


def _materials() -> tuple[list[TrainingRow], Materials]:
    from tiny import tokenizer_json

    rows = [row for row in own_rows(templates=600) if len(row.text) < 120]
    # Every family needs rows: our own text stands in for the sets.
    rows += [
        TrainingRow(row.text, row.known, source, f"{source}:{n}")
        for n, row in enumerate(rows[:300])
        for source in ("edos", "davidson", "red_instruct")
    ]
    return rows, Materials(_WORDINGS, load_folder(shipped_folder()), Tokens.from_json(tokenizer_json()))


def test_batches_are_the_same_for_the_same_seed_and_step_and_ask_only_what_is_known() -> None:
    rows, materials = _materials()
    one, two = (Sampler(rows, materials, seed=3, texts=16) for _ in range(2))
    for step in (0, 7):
        first, second = one.batch(step), two.batch(step)
        assert torch.equal(first.ids, second.ids)
        assert torch.equal(first.pairs, second.pairs)
        assert torch.equal(first.labels, second.labels)
    batch = one.batch(5)
    assert batch.pairs[:, 0].max() < len(batch.ids)
    assert batch.pairs[:, 1].max() < len(batch.layout)
    assert set(batch.labels.tolist()) <= {0.0, 1.0}
    assert (batch.weights > 0).all()


def _run(folder: Path, recipe: Recipe, *, stop_after: int | None = None) -> tuple[PolicyReader, list[float]]:
    rows, materials = _materials()
    torch.manual_seed(recipe.seed)
    model, losses = PolicyReader(TINY), []

    class Stopped(Exception):
        pass

    def report(progress: Progress) -> None:
        losses.append(progress.loss)
        if progress.step == stop_after:
            raise Stopped

    with contextlib.suppress(Stopped):
        train(model, Sampler(rows, materials, seed=recipe.seed, texts=16), recipe, folder, report=report)
    return model, losses


@pytest.fixture
def one_thread():  # type: ignore[no-untyped-def]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    recipe = Recipe(steps=8, warm_up=2, checkpoint_every=2, frozen_layers=0)
    whole, losses = _run(tmp_path / "whole", recipe)
    _run(tmp_path / "cut", recipe, stop_after=5)
    resumed, rest = _run(tmp_path / "cut", recipe)
    assert len(losses) == 8
    assert len(rest) == 4  # from the checkpoint after step 4
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    with pytest.raises(GuardrailError, match=r"of another run: recipe\.steps was 8, is 9"):
        _run(tmp_path / "cut", Recipe(steps=9, warm_up=2, checkpoint_every=2, frozen_layers=0))


@pytest.mark.usefixtures("one_thread")
def test_the_loss_falls_and_frozen_layers_stay(tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = PolicyReader(TINY).state_dict()
    model, losses = _run(tmp_path, Recipe(steps=24, warm_up=3, trunk_rate=4e-3, new_rate=4e-3, frozen_layers=1))
    assert losses[-1] < 0.85 * losses[0]
    after = model.state_dict()
    assert torch.equal(before["words.weight"], after["words.weight"])
    assert torch.equal(before["trunk.0.query.weight"], after["trunk.0.query.weight"])
    assert not torch.equal(before["trunk.1.query.weight"], after["trunk.1.query.weight"])


def test_weights_can_end_part_of_the_way_back_to_where_they_began() -> None:
    model = PolicyReader(TINY)
    before = [torch.zeros_like(parameter) for parameter in model.parameters()]
    ends = [parameter.detach().clone() for parameter in model.parameters()]
    blend(model, before, 0.25)
    assert all(torch.allclose(parameter, end * 0.75) for parameter, end in zip(model.parameters(), ends, strict=True))


def test_a_share_of_the_beginning_without_one_is_refused(tmp_path: Path) -> None:
    plan = Plan(tmp_path, tmp_path / "run", tmp_path / "out.safetensors", Recipe(steps=1, blend=0.5))
    with pytest.raises(GuardrailError, match="--init FILE"):
        train_embedded(plan, [], report=lambda progress: None)
