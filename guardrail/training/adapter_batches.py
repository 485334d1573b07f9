"""Which texts make a step, and which of those go through the model together: like lengths side by side, so that little is padding."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from guardrail.engine.adapter.model import padded

_NEIGHBOURS = 32  # steps whose texts are sorted by length before they are cut into steps: some of the order stays random


@dataclass(frozen=True, slots=True)
class Shape:
    """`batch` texts a step; `tokens` of one pass, padding included, at most (a longer text goes alone)."""

    batch: int = 16
    tokens: int = 8192


def steps_of_epoch(lengths: Sequence[int], shape: Shape, seed: str) -> list[list[int]]:
    """Places of the rows of each step of one pass over the data, every row once. The same for the same seed."""
    chance = random.Random(seed)  # noqa: S311  (reproducible, no secret)
    order = list(range(len(lengths)))
    chance.shuffle(order)
    steps: list[list[int]] = []
    span = shape.batch * _NEIGHBOURS
    for start in range(0, len(order), span):
        near = sorted(order[start : start + span], key=lambda place: lengths[place])
        cut = [near[at : at + shape.batch] for at in range(0, len(near), shape.batch)]
        chance.shuffle(cut)
        steps += cut
    return steps


def passes(lengths: Sequence[int], shape: Shape) -> list[list[int]]:
    """A step's rows in groups of like length, each within `shape.tokens`."""
    groups: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if groups and padded(lengths[groups[-1][0]]) * (len(groups[-1]) + 1) <= shape.tokens:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups
