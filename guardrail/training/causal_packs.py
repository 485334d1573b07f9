"""Prompts as the engine spells them, laid out for training: contents of one policy behind its prefix, packs of like length together.

A policy is most of a prompt, and contradictory examples ask many contents of each. So a pack runs the policy once and the contents behind
it, each blind to the others, as the engine does at judging time: the same answers and the same gradient for a fraction of the tokens.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from guardrail.engine.cope.tokens import PromptTokens
from guardrail.errors import ClassifierError, GuardrailError
from guardrail.training.causal_data import Example

Ids = NDArray[np.int32]
WINDOW = 32  # passes' worth of packs among which those of like length are put together


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """`prefix` + `row`: the ids of a whole prompt, cut where the engine cuts it, answered behind the last. `place`: of the example."""

    prefix: Ids
    row: Ids
    label: int
    weight: float
    place: int


@dataclass(frozen=True, slots=True)
class Layout:
    """How prompts are put into passes and steps; part of the recipe.

    `tokens`: of a pass, padding included (a longer prompt is a pass of its own). `share`: contents behind one policy at most; 1: each
    prompt whole. `longest_pack`: tokens beyond which a policy is run again for further contents (half as many again as a policy that
    is longer), since attention within a pack grows with its square. `accumulate`: passes of a step. `order`: `shuffled` anew each
    epoch, or `file`: packs stand where their first example does, but for those within the same few passes.
    """

    tokens: int = 8192
    share: int = 16
    longest_pack: int = 2048
    accumulate: int = 4
    order: Literal["shuffled", "file"] = "shuffled"


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """Prompts of one policy, whose prefix is run once."""

    prompts: tuple[Prompt, ...]

    @property
    def length(self) -> int:
        """Tokens that are run."""
        return len(self.prompts[0].prefix) + sum(len(prompt.row) for prompt in self.prompts)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What goes through the model at once."""

    packs: tuple[Pack, ...]

    @property
    def prompts(self) -> list[Prompt]:
        """In the order in which they are read."""
        return [prompt for pack in self.packs for prompt in pack.prompts]

    @property
    def weight(self) -> float:
        """Of the examples, summed."""
        return sum(prompt.weight for prompt in self.prompts)

    @property
    def tokens(self) -> int:
        """That are run, padding aside."""
        return sum(pack.length for pack in self.packs)

    @property
    def spelled(self) -> int:
        """Tokens of its prompts, each whole: what would be run without sharing."""
        return sum(len(prompt.prefix) + len(prompt.row) for prompt in self.prompts)


def spell(examples: Sequence[Example], tokens: PromptTokens, *, positive: float = 1.0) -> tuple[list[Prompt], list[str]]:
    """The prompts of those that fit, and why the others do not; nothing is cut short. `positive`: weight of label 1, on top of a row's own.

    Raises GuardrailError where none fits.
    """
    found: list[Prompt] = []
    refused: list[str] = []
    for place, example in enumerate(examples):
        try:
            prefix, row = tokens.prefix(example.policy), tokens.row(example.content, example.policy).tokens
        except ClassifierError as error:
            refused.append(str(error))
            continue
        weight = example.weight * (positive if example.label else 1.0)
        found.append(Prompt(prefix, row, example.label, weight, place))
    if examples and not found:
        raise GuardrailError(f"none of the {len(examples):,} examples fits: {refused[0]}")
    return found, refused


def epoch(prompts: Sequence[Prompt], layout: Layout, seed: str) -> list[list[Batch]]:
    """The passes of each step of one time through all prompts, every one once. The same for the same seed."""
    random_ = random.Random(f"packs:{seed}")  # noqa: S311  (sampling, not secrecy)
    chosen = list(prompts)
    if layout.order == "shuffled":
        random_.shuffle(chosen)
    found = packs(chosen, layout)
    if layout.order == "shuffled":
        random_.shuffle(found)
    passes: list[Batch] = []
    for window in _cut(found, lambda window: sum(pack.length for pack in window) > WINDOW * layout.tokens):
        near = batches(window, layout)
        random_.shuffle(near)
        passes += near
    return [passes[first : first + layout.accumulate] for first in range(0, len(passes), layout.accumulate)]


def packs(prompts: Iterable[Prompt], layout: Layout) -> list[Pack]:
    """Prompts of the same policy together, in order, as many as may be; packs stand where their first prompt did."""
    open_: dict[bytes, list[Prompt]] = {}
    found: list[list[Prompt]] = []
    lengths: dict[int, int] = defaultdict(int)
    for prompt in prompts:
        key = prompt.prefix.tobytes()
        current = open_.get(key)
        most = min(layout.tokens, max(layout.longest_pack, len(prompt.prefix) * 3 // 2))
        if current is None or len(current) >= layout.share or lengths[id(current)] + len(prompt.row) > most:
            current = open_[key] = []
            found.append(current)
            lengths[id(current)] = len(prompt.prefix)
        current.append(prompt)
        lengths[id(current)] += len(prompt.row)
    return [Pack(tuple(each)) for each in found]


def batches(found: Sequence[Pack], layout: Layout) -> list[Batch]:
    """Packs of like length together, as many as fit a pass with their padding."""
    ordered = sorted(found, key=lambda pack: -pack.length)
    return [Batch(tuple(group)) for group in _cut(ordered, lambda group: len(group) * group[0].length > layout.tokens)]


def _cut(ordered: Sequence[Pack], over: Callable[[list[Pack]], bool]) -> list[list[Pack]]:
    """In order, into groups that are as large as they may be, one pack at least."""
    groups: list[list[Pack]] = []
    for pack in ordered:
        if not groups or over([*groups[-1], pack]):
            groups.append([])
        groups[-1].append(pack)
    return groups
