"""Own mild texts in which one core statement is put to many uses: meant, denied, quoted, rebuked, reclaimed, told, asked.

The words are the same in all of them, so a label under a policy about a use follows by construction and cannot be guessed from the words.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from guardrail.training.rows import WEAK, TrainingRow
from guardrail.training.targets import WITHIN

FILE = Path(__file__).parent / "own_text" / "contrasts.yaml"
SOURCE = "own:contrasts"
HATE = "hate_speech"
NEUTRAL = "neutral"


@dataclass(frozen=True, slots=True)
class _Use:
    function: str
    frame: str
    base: int | None


@cache
def contrasts() -> Mapping[str, Any]:
    """The file: `cores` and `neutral` by subject, `functions` with their frames."""
    document: Mapping[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return document


def subjects() -> tuple[str, ...]:
    """The areas that the texts are about, in the file's order."""
    return tuple(contrasts()["cores"])


def functions(subject: str) -> tuple[str, ...]:
    """The uses a core of this subject is put to, `plain` first."""
    return tuple(name for name, use in contrasts()["functions"].items() if use.get("only", subject) == subject)


def contrast_rows(groups: Mapping[str, Any], *, seed: int, held_out: bool = False) -> list[TrainingRow]:
    """All texts, shuffled by seed. `groups` maps a group to its `names`; each hostile clause meets each group once.

    `held_out` True gives the texts made of the last core and the last frame of each list, which the others never contain.
    """
    random_ = random.Random(f"contrasts:{seed}")  # noqa: S311  (sampling, not secrecy)
    rows = []
    for subject in subjects():
        for core, use in product(_kept(contrasts()["cores"][subject], held_out=held_out), _uses(subject, held_out=held_out)):
            rows += [_row(subject, use, core, group, random_.choice(names)) for group, names in _speakers(subject, groups)]
        for text in _kept(contrasts()["neutral"][subject], held_out=held_out):
            use = _Use(NEUTRAL, "{core}", 0)
            rows += [_row(subject, use, text, group, random_.choice(names)) for group, names in _speakers(subject, groups)]
    random_.shuffle(rows)
    return list({row.text: row for row in rows}.values())


def _kept(entries: list[str], *, held_out: bool) -> list[str]:
    return entries[-1:] if held_out else entries[:-1]


def _uses(subject: str, *, held_out: bool) -> Iterator[_Use]:
    for name in functions(subject):
        use = contrasts()["functions"][name]
        for frame in _kept(use["frames"], held_out=held_out):
            yield _Use(name, frame, use["base"])


def _speakers(subject: str, groups: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    return [(group, entry["names"]) for group, entry in groups.items()] if subject == HATE else [("", [""])]


def _row(subject: str, use: _Use, core: str, group: str, name: str) -> TrainingRow:
    text = use.frame.replace("{core}", core).replace("{group}", name)
    known: dict[str, tuple[int, float]] = {"prompt_attack": (0, WEAK)}
    if use.base is not None:
        known[subject] = (use.base, 1.0 if subject == HATE else 0.7)
    return TrainingRow(
        text[0].upper() + text[1:],
        known,
        SOURCE,
        f"{SOURCE}:{subject}:{core}",
        groups=frozenset({group, WITHIN.get(group, group)} if group and use.base == 1 else ()),
        function=use.function,
        subject=subject,
    )
