"""The text written for training keeps its schema, its coverage, and its distance from the policies' own test cases."""

import json
import re
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from guardrail.policy.registry import load_folder
from guardrail.training.rows import own_rows
from guardrail.training.templates import SHARES, generate, load_patterns, load_slots
from guardrail.training.unreadable import unreadable

ROOT = Path(__file__).parents[2]
OWN = ROOT / "guardrail" / "training" / "own_text"
AREAS = ["hate_speech", "harassment", "toxicity", "sexual_content", "self_harm", "violence", "illegal_activity", "prompt_attack"]
KINDS = {"llm_prompt", "llm_response", "user_content"}
FILES = sorted(path.stem for path in OWN.glob("*.jsonl"))


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (OWN / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def folded(text: str) -> str:
    return " ".join(text.lower().split())


def shape_faults(row: dict) -> list[str]:
    faults = [] if set(row) == {"text", "violates", "kind", "topic", "function"} else ["keys"]
    faults += [] if row["text"] == row["text"].strip() != "" else ["text"]
    faults += [] if row["violates"] == [area for area in AREAS if area in row["violates"]] else ["violates"]
    faults += [] if row["kind"] in KINDS else ["kind"]
    return faults + [key for key in ("topic", "function") if not re.fullmatch(r"[a-z][a-z0-9_]*", row[key])]


@pytest.mark.parametrize("name", FILES)
def test_every_line_keeps_the_schema_with_known_labels_in_order(name: str) -> None:
    assert [(row["text"], faults) for row in rows(name) if (faults := shape_faults(row))] == []


def test_no_text_stands_twice_across_the_files() -> None:
    counts = Counter(folded(row["text"]) for name in FILES for row in rows(name))
    assert [text for text, count in counts.items() if count > 1] == []


def test_no_text_repeats_a_policy_test_case() -> None:
    cases = {folded(case.text) for policy in load_folder(ROOT / "policies") for case in policy.tests}
    assert len(cases) >= 100
    own = {folded(row["text"]) for name in FILES for row in rows(name)} | {folded(row["text"]) for row in generate(1, 5000)}
    assert own & cases == set()


def test_each_area_has_sixty_violations_and_sixty_look_alikes() -> None:
    violating = Counter(area for row in rows("violations_mild") for area in row["violates"])
    near = Counter(row["topic"] for row in rows("hard_negatives"))
    assert {area: violating[area] for area in AREAS if violating[area] < 60} == {}
    assert {area: near[area] for area in AREAS if near[area] < 60} == {}


def test_harmless_files_violate_nothing_and_the_violating_file_always_something() -> None:
    assert len(rows("benign_prompts")) >= 500
    assert not any(row["violates"] for name in ("benign_prompts", "hard_negatives") for row in rows(name))
    assert all(row["violates"] for row in rows("violations_mild"))


def test_violations_and_look_alikes_carry_the_label_of_their_topic() -> None:
    assert [row["text"] for row in rows("violations_mild") if row["topic"] not in row["violates"]] == []


def test_generated_texts_are_distinct_filled_and_well_formed() -> None:
    texts = list(generate(7, 6000))
    assert len({folded(row["text"]) for row in texts}) == 6000
    assert [row["text"] for row in texts if shape_faults(dict(row)) or re.search(r"\{[a-z_]+(#\d)?\}", row["text"])] == []
    assert [row["text"] for row in texts if re.search(r"\ba (?:idiot|ugly|imbecile|airhead|apple)", row["text"])] == []


def test_the_same_seed_gives_the_same_texts_and_another_seed_others() -> None:
    first = list(generate(7, 200))
    assert list(islice(generate(7, 5000), 200)) == first
    assert list(generate(8, 200)) != first


def test_most_generated_texts_violate_nothing_and_every_area_is_met() -> None:
    texts = list(generate(7, 4000))
    met = Counter(area for row in texts for area in row["violates"])
    assert sum(not row["violates"] for row in texts) > len(texts) / 2
    assert min(met[area] for area in AREAS) >= 80


def test_every_pattern_names_known_slots_and_every_slot_is_used() -> None:
    patterns = [pattern for section in SHARES for group in load_patterns(section).values() for pattern in group]
    used = {slot for pattern in patterns for slot in re.findall(r"\{([a-z_]+)(?:#\d)?\}", pattern.text)}
    assert used == set(load_slots())
    assert all(len(values) >= 5 and len(set(values)) == len(values) for values in load_slots().values())


def test_violating_patterns_carry_their_topic_and_the_others_carry_nothing() -> None:
    violating = [pattern for group in load_patterns("violating").values() for pattern in group]
    assert all(pattern.topic in pattern.violates for pattern in violating)
    assert not any(
        pattern.violates for section in ("benign", "look_alikes") for group in load_patterns(section).values() for pattern in group
    )


def test_unreadable_texts_are_the_same_for_the_same_seed_and_mostly_distinct() -> None:
    texts = list(unreadable(3, ["Where does the train to Lisbon leave?", "Bake it for an hour."], 600))
    assert texts == list(unreadable(3, ["Where does the train to Lisbon leave?", "Bake it for an hour."], 600))
    assert texts != list(unreadable(4, ["Where does the train to Lisbon leave?", "Bake it for an hour."], 600))
    assert len(set(texts[::2])) > 250  # made up; every second one spells one of the two sentences
    assert all(text.strip() for text in texts)


def test_only_harmless_texts_are_spelled_unreadably_and_all_count_as_harmless() -> None:
    spelled = [row for row in own_rows(templates=400) if row.source == "own:unreadable"]
    assert len(spelled) >= 1000
    assert not any(label for row in spelled for label, _ in row.known.values())
    harmless = [row["text"] for row in generate(1, 400) if not row["violates"]]
    turned = {text[::-1] for text in harmless}
    violating = {row["text"][::-1] for row in generate(1, 400) if row["violates"]}
    assert {row.text for row in spelled} & turned
    assert not {row.text for row in spelled} & violating
