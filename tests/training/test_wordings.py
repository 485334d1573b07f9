"""The policy wordings that training draws from: whole, varied, and free of slips."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import guardrail

FOLDER = Path(guardrail.__file__).parent / "training"
AREAS = [
    "hate_speech",
    "harassment",
    "toxicity",
    "sexual_content",
    "self_harm",
    "violence",
    "illegal_activity",
    "prompt_attack",
    "general_harm",
    "unsafe_advice",
]
GROUPS = [
    "women",
    "muslims",
    "jews",
    "black_people",
    "asians",
    "latinos",
    "lgbtq",
    "gay_people",
    "trans_people",
    "white_people",
    "disabled",
    "immigrants",
    "arabs",
    "native_americans",
    "men",
    "christians",
]
WITH_GROUP = ("scoped", "except_group")
VARIANTS = (*WITH_GROUP, "threats_only", "profanity_allowed", "direct_abuse_only")
# section -> (least entries, least wordings of each concept; 0 where entries are plain strings)
AREA_COUNTS = {"titles": (6, 0), "overviews": (6, 0), "one_liners": (8, 0), "includes": (7, 3), "excludes": (7, 3), "terms": (3, 0)}
INVERTED_COUNTS = {"titles": (3, 0), "overviews": (4, 0), "includes": (4, 2), "excludes": (4, 2)}
VARIANT_COUNTS = {"titles": (4, 0), "overviews": (5, 0), "one_liners": (5, 0), "includes": (5, 3), "excludes": (5, 2)}
TOPIC_COUNTS = {
    "titles": (2, 0),
    "overviews": (2, 0),
    "one_liners": (3, 0),
    "includes": (3, 2),
    "excludes": (2, 2),
    "examples_positive": (6, 0),
    "examples_near": (3, 0),
}


def _load() -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for name in ("wordings_areas.yaml", "wordings_scopes.yaml", "wordings_topics.yaml"):
        part = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
        assert not merged.keys() & part.keys(), f"{name} repeats a section of another file"
        merged |= part
    return merged


WORDINGS = _load()
TOPICS = {topic["key"]: topic for topic in WORDINGS["topics"]}


def _blocks() -> Iterator[tuple[str, dict[str, Any], dict[str, tuple[int, int]]]]:
    for key, area in WORDINGS["areas"].items():
        yield key, {k: v for k, v in area.items() if k != "inverted"}, AREA_COUNTS
        yield f"{key}.inverted", area["inverted"], INVERTED_COUNTS
    for key in VARIANTS:
        yield key, WORDINGS[key], VARIANT_COUNTS
    for key, topic in TOPICS.items():
        yield key, {k: v for k, v in topic.items() if k != "key"}, TOPIC_COUNTS


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    else:
        assert isinstance(value, str), f"not a plain string: {value!r}"
        yield value


BLOCKS = [pytest.param(block, counts, id=name) for name, block, counts in _blocks()]


def test_every_area_group_and_variant_is_there() -> None:
    assert set(WORDINGS) == {"areas", "groups", "topics", *VARIANTS}
    assert set(WORDINGS["areas"]) == set(AREAS)
    assert set(WORDINGS["groups"]) == set(GROUPS)
    assert len(TOPICS) == len(WORDINGS["topics"]) >= 40


@pytest.mark.parametrize(("block", "counts"), BLOCKS)
def test_a_block_has_its_sections_and_enough_wordings(block: dict[str, Any], counts: dict[str, tuple[int, int]]) -> None:
    assert set(block) == set(counts)
    for section, (entries, wordings) in counts.items():
        assert len(block[section]) >= entries, section
        for entry in block[section]:
            assert isinstance(entry, list if wordings else str), f"{section}: {entry!r}"
            assert not wordings or len(entry) >= wordings, f"{section}: {entry!r}"


@pytest.mark.parametrize(("block", "counts"), BLOCKS)
def test_a_criterion_has_a_name_and_says_what_content_it_means(block: dict[str, Any], counts: dict[str, tuple[int, int]]) -> None:
    for wording in _strings([block["includes"], block["excludes"]]):
        assert re.match(r"[A-Z][^:]{2,60}: Content\b.*[.)]$", wording), wording


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_has_three_names_and_three_phrases(group: str) -> None:
    entry = WORDINGS["groups"][group]
    assert set(entry) == {"names", "about"}
    assert len(set(entry["names"])) >= 3
    assert len(set(entry["about"])) >= 3


def test_no_string_occurs_twice() -> None:
    twice = [text for text, count in Counter(text.lower() for _, block, _ in _blocks() for text in _strings(block)).items() if count > 1]
    assert twice == []


def test_every_string_is_trimmed_and_on_one_line() -> None:
    assert [text for text in _strings(WORDINGS) if not text or text != " ".join(text.split())] == []


def test_the_only_placeholder_is_group_and_only_in_the_two_variants_that_take_it() -> None:
    for key, value in WORDINGS.items():
        found = {mark for text in _strings(value) for mark in re.findall(r"[{}]|\{\w*\}", text.replace("{group}", ""))}
        assert found == set(), key
        if key not in WITH_GROUP:
            assert not [text for text in _strings(value) if "{group}" in text], key


@pytest.mark.parametrize("variant", WITH_GROUP)
def test_a_policy_about_a_group_names_the_group(variant: str) -> None:
    block = WORDINGS[variant]
    assert all("{group}" in text for text in [*block["titles"], *block["one_liners"]])
    carve_out = block["excludes"][0] if variant == "except_group" else [w for concept in block["includes"] for w in concept]
    assert all("{group}" in text for text in carve_out)
