"""Many short training texts from a few hand-written patterns: `own_text/templates/*.yaml` times the values in `slots.yaml`.

The same slot values stand in violating, harmless and look-alike patterns, so no single word gives a label away.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypedDict

import yaml

FOLDER = Path(__file__).parent / "own_text" / "templates"

# Sections and their shares of the generated texts.
SHARES: Mapping[str, float] = {"benign": 0.52, "violating": 0.27, "look_alikes": 0.21}

# After this many repeats in a row there is nothing new left worth looking for.
PATIENCE = 500

_SLOT = re.compile(r"\{([a-z_]+)(#\d)?\}")
_SENTENCE_START = re.compile(r"(?:^|[.!?] |\n)$")
_WRONG_ARTICLE = re.compile(r"\b([Aa]) (?=[aei]\w|o(?!ne\b)\w|ugly\b)")
_PREFIXES = ("Hi! ", "Hello, quick one: ", "Question: ", "hey ", "Please help. ", "ok so ", "Hi there, ", "One more thing. ")
_SUFFIXES = (" Thanks!", " Thank you.", " Please answer soon.", " thx", " Keep it short.", " I'm curious.")


class OwnText(TypedDict):
    """One training text; `violates` names every shipped policy area the text violates (complete, possibly empty)."""

    text: str
    violates: list[str]
    kind: Literal["llm_prompt", "llm_response", "user_content"]
    topic: str
    function: str


@dataclass(frozen=True, slots=True)
class Pattern:
    """A text with `{slot}` gaps. `{slot}` twice takes one value; `{slot#2}` takes a different one."""

    text: str
    violates: tuple[str, ...]
    kind: Literal["llm_prompt", "llm_response", "user_content"]
    topic: str
    function: str


@cache
def load_slots() -> Mapping[str, tuple[str, ...]]:
    """The values of each slot, as text."""
    raw = yaml.safe_load((FOLDER / "slots.yaml").read_text(encoding="utf-8"))
    return {slot: tuple(str(value) for value in values) for slot, values in raw.items()}


@cache
def wrappers() -> tuple[str, ...]:
    """Tasks around a text, each with one `{text}`."""
    raw = yaml.safe_load((FOLDER.parent / "wrappers.yaml").read_text(encoding="utf-8"))
    return tuple(raw["wrappers"])


@cache
def load_patterns(section: str) -> Mapping[str, tuple[Pattern, ...]]:
    """The patterns of one section (`benign`, `violating`, `look_alikes`) by topic, in the order of its files."""
    topics: dict[str, tuple[Pattern, ...]] = {}
    for path in sorted(FOLDER.glob(f"{section}*.yaml")):
        for group in yaml.safe_load(path.read_text(encoding="utf-8")):
            labels, topic = tuple(group["violates"]), group["topic"]
            found = tuple(Pattern(text, labels, group["kind"], topic, group["function"]) for text in group["texts"])
            topics[topic] = topics.get(topic, ()) + found
    return topics


def generate(seed: int, count: int) -> Iterator[OwnText]:
    """Yield up to `count` distinct texts, the same ones for the same seed.

    Fewer come only when `count` is beyond what the patterns can give (tens of thousands are safe).
    """
    rng = random.Random(seed)  # noqa: S311  (sampling, not secrets)
    sections = list(SHARES)
    weights = [SHARES[section] for section in sections]
    seen: set[str] = set()
    misses = 0
    while len(seen) < count and misses < PATIENCE:
        topics = load_patterns(rng.choices(sections, weights)[0])
        pattern = rng.choice(topics[rng.choice(list(topics))])
        text = _vary(_fill(pattern.text, rng), pattern.kind, rng)
        key = " ".join(text.lower().split())
        if key in seen:
            misses += 1
            continue
        misses = 0
        seen.add(key)
        yield OwnText(text=text, violates=list(pattern.violates), kind=pattern.kind, topic=pattern.topic, function=pattern.function)


def _fill(template: str, rng: random.Random) -> str:
    """Put a value into each gap, capitalised where a sentence starts, with a/an set right."""
    chosen: dict[str, str] = {}
    for match in _SLOT.finditer(template):
        slot, place = match.group(1), match.group(0)
        if place not in chosen:
            taken = {value for key, value in chosen.items() if key.startswith(("{" + slot + "}", "{" + slot + "#"))}
            chosen[place] = rng.choice([value for value in load_slots()[slot] if value not in taken])

    def value_at(match: re.Match[str]) -> str:
        value = chosen[match.group(0)]
        starts = _SENTENCE_START.search(template[: match.start()]) is not None
        return value[0].upper() + value[1:] if starts else value

    return _WRONG_ARTICLE.sub(r"\1n ", _SLOT.sub(value_at, template))


def _vary(text: str, kind: str, rng: random.Random) -> str:
    """Give some of the texts the looks of hasty typing; layout and meaning stay."""
    if "\n" in text or text.startswith("{"):
        return text
    if kind == "llm_prompt" and rng.random() < 0.12:
        text = rng.choice(_PREFIXES) + text
    if kind == "llm_prompt" and text.endswith((".", "?", "!")) and rng.random() < 0.08:
        text += rng.choice(_SUFFIXES)
    if kind != "llm_response" and rng.random() < 0.12:
        text = text.lower()
    if kind != "llm_response" and rng.random() < 0.12:
        text = text.rstrip(".?!")
    if rng.random() < 0.06:
        text = _slip(text, rng)
    return text


def _slip(text: str, rng: random.Random) -> str:
    """Swap two inner letters of one longer word."""
    words: Sequence[re.Match[str]] = list(re.finditer(r"[a-z]{5,}", text))
    if not words:
        return text
    at = (word := rng.choice(words)).start() + rng.randrange(1, len(word.group()) - 2)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
