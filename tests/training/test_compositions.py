"""Policies made from policies, and which group a text is aimed at."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrail.engine.embedded.model import EXCLUDE, INCLUDE, LABEL
from guardrail.policy.registry import load_folder, shipped_folder
from guardrail.training.compositions import ROOM, Composer
from guardrail.training.labels import Aim, target
from guardrail.training.rows import AREAS, TrainingRow
from guardrail.training.targets import aimed_at, aimed_only_at, spoken_of
from guardrail.training.variants import Wordings

WORDINGS = Wordings.load()
SHIPPED = {policy.id: policy for policy in load_folder(shipped_folder())}
COMPOSER = Composer(WORDINGS, SHIPPED)
AIMS = [
    *(Aim(kind, group) for kind in ("scoped", "except_group") for group in WORDINGS.groups),  # type: ignore[arg-type]
    *(Aim("reversed", area) for area in AREAS),
    *(Aim(kind, f"{one}/{other}") for kind in ("either", "without") for one in AREAS for other in AREAS if one != other),  # type: ignore[arg-type]
]


@given(st.sampled_from(AIMS), st.integers(0, 10_000))
def test_a_composed_policy_is_whole_bounded_and_the_same_for_its_seed(aim: Aim, seed: int) -> None:
    drawn = COMPOSER.draw(aim, random.Random(seed))
    assert drawn == COMPOSER.draw(aim, random.Random(seed))
    assert drawn.statements[0].kind == LABEL
    assert len(drawn.statements) <= ROOM
    assert not any("{" in statement.text for statement in drawn.statements)


@given(st.sampled_from(WORDINGS.groups), st.integers(0, 10_000))
def test_a_target_that_is_carved_out_is_always_named(group: str, seed: int) -> None:
    names = WORDINGS.group_names[group]["names"]
    for kind in ("except_group", "scoped"):
        text = " ".join(statement.text for statement in COMPOSER.draw(Aim(kind, group), random.Random(seed)).statements)  # type: ignore[arg-type]
        assert any(name in text for name in names)


def test_a_mirrored_policy_forbids_what_was_excluded_and_permits_what_was_included() -> None:
    shipped = SHIPPED["violence"]
    for seed in range(60):
        drawn = COMPOSER.draw(Aim("reversed", "violence"), random.Random(seed))
        kinds = {statement.text: statement.kind for statement in drawn.statements}
        for criterion, kind in [(c, EXCLUDE) for c in shipped.labels[0].includes] + [(c, INCLUDE) for c in shipped.labels[0].excludes]:
            found = [k for text, k in kinds.items() if text.startswith(f"{criterion.name}: {criterion.text[:40]}")]
            assert found in ([], [kind])


def test_held_out_sentences_are_never_drawn_in_training() -> None:
    kept = Composer(Wordings.load(held_out=True), {})
    last = [sentences[-1] for sentences in WORDINGS.composed.values()]
    pieces = [piece for sentence in last for piece in sentence.replace("}", "{").split("{")[::2] if len(piece) > 25]

    def seen(composer: Composer) -> set[str]:
        texts = [s.text for n in range(400) for s in composer.draw(AIMS[n % len(AIMS)], random.Random(n)).statements]
        return {piece for piece in pieces if any(piece in text for text in texts)}

    assert not seen(COMPOSER)
    assert len(seen(kept)) > len(pieces) / 2


@pytest.mark.parametrize(
    ("known", "reversed_", "either", "without"),
    [
        ({"violence": (1, 1.0), "toxicity": (1, 1.0)}, 0, 1, 0),
        ({"violence": (1, 1.0), "toxicity": (0, 1.0)}, 0, 1, 1),
        ({"violence": (0, 1.0), "toxicity": (1, 1.0)}, 1, 1, 0),
        ({"violence": (0, 1.0), "toxicity": (0, 1.0)}, 1, 0, 0),
        ({"violence": (0, 1.0)}, 1, None, 0),
        ({"violence": (1, 1.0)}, 0, 1, None),
        ({"toxicity": (0, 1.0)}, None, None, None),
    ],
)
def test_an_overriding_exclusion_beats_an_inclusion(
    known: dict[str, tuple[int, float]], reversed_: int | None, either: int | None, without: int | None
) -> None:
    row = TrainingRow("A text.", known, "own:test", "u")
    aims = (Aim("reversed", "violence"), Aim("either", "violence/toxicity"), Aim("without", "violence/toxicity"))
    found = [target(row, aim) for aim in aims]
    assert [None if answer is None else answer[0] for answer in found] == [reversed_, either, without]


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("I do not want muslims here", {"muslims"}),
        ("gay people should stay away", {"gay_people", "lgbtq"}),
        ("queer folk should stay away", {"lgbtq"}),
        ("women and immigrants should stay away", set()),
        ("they should stay away", set()),
        ("the blackboard is dirty", set()),
    ],
)
def test_a_text_that_names_one_group_is_aimed_at_it(text: str, groups: set[str]) -> None:
    assert spoken_of(text) == groups


def test_a_narrower_group_is_unknown_where_only_the_wider_one_is_said() -> None:
    wide, gay, both = frozenset({"lgbtq"}), frozenset({"lgbtq", "gay_people"}), frozenset({"lgbtq", "gay_people", "women"})
    assert aimed_at(wide, "gay_people") is None
    assert aimed_at(gay, "trans_people") is False
    assert aimed_at(gay, "lgbtq") is True
    assert aimed_only_at(gay, "lgbtq")
    assert aimed_only_at(gay, "gay_people")
    assert not aimed_only_at(both, "gay_people")
    row = TrainingRow("A text.", {"hate_speech": (1, 1.0)}, "own:test", "u", groups=wide)
    assert target(row, Aim("scoped", "gay_people")) is None
    assert target(row, Aim("except_group", "women")) == (1, 1.0)


def test_a_threat_that_nobody_called_one_is_not_called_harmless() -> None:
    threatens = TrainingRow("A text.", {"hate_speech": (0, 1.0), "violence": (1, 1.0)}, "own:test", "u")
    calm = TrainingRow("A text.", {"hate_speech": (0, 1.0), "violence": (0, 1.0)}, "own:test", "u")
    assert target(threatens, Aim("threats_only")) is None
    assert target(calm, Aim("threats_only")) == (0, 1.0)


def test_two_policies_joined_leave_out_nothing_that_one_of_them_forbids() -> None:
    for seed in range(40):
        drawn = COMPOSER.draw(Aim("either", "hate_speech/harassment"), random.Random(seed))
        assert EXCLUDE not in {statement.kind for statement in drawn.statements}
