"""What the loop asks of a causal language model that learns to judge: its steps, its loss, how it does on what is held out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from guardrail.errors import GuardrailError
from guardrail.training.causal_data import Example
from guardrail.training.causal_measures import measures
from guardrail.training.causal_model import Judge, labels_of, losses, scores
from guardrail.training.causal_packs import Batch, Layout, Prompt, batches, epoch, packs
from guardrail.training.lora import Lora, learning
from guardrail.training.steps import Pace

LONGEST = 8192  # CoPE-A's limit for policy and content together, which the engine keeps to
QUICK = 256  # held-out examples that are measured on the way


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the result besides base and data.

    `epochs`: times through the examples, unless `steps` says how many steps, however often that is. `outside`: see
    `causal_model.losses`. `positive`: weight of label 1. `longest`: tokens of a whole prompt. `held_out`: one unit in so many (0: none).
    CoPE's own recipe is not published: all of these are this project's choices.
    """

    lora: Lora = field(default_factory=Lora)
    pace: Pace = field(default_factory=Pace)
    layout: Layout = field(default_factory=Layout)
    epochs: int = 1
    steps: int | None = None
    outside: float = 0.5
    positive: float = 1.0
    template: str = "A"
    longest: int = LONGEST
    held_out: int = 20

    def document(self) -> dict[str, Any]:
        """As JSON holds it."""
        document: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return document


@dataclass(frozen=True, slots=True)
class Kept:
    """What is held out: prompts, and the examples that they spell, by `Prompt.place`."""

    prompts: Sequence[Prompt] = ()
    examples: Sequence[Example] = ()


class CausalLearner:
    """A `Learner` over prompts. Raises GuardrailError where there is nothing to learn."""

    def __init__(self, judge: Judge, learnt: Sequence[Prompt], kept: Kept, recipe: Recipe) -> None:
        if not learnt:
            raise GuardrailError("there are no examples to learn from: all are held out; give more, or --held-out 0")
        self._judge, self._kept, self._recipe = judge, kept, recipe
        self._plan = _planned(learnt, recipe)
        self._parameters = learning(judge.model)

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The adapter's."""
        return self._parameters

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return len(self._plan)

    @property
    def saved(self) -> float:
        """Tokens that whole prompts would take, for each that is run."""
        every = [each for passes in self._plan for each in passes]
        return sum(each.spelled for each in every) / sum(each.tokens for each in every)

    def passes(self, step: int) -> Sequence[Batch]:
        """Those of a step."""
        return self._plan[step]

    def loss(self, each: Batch) -> Tensor:
        """Summed over the prompts, each by its weight."""
        labels, weights = labels_of(each, self._judge.device)
        logits, total = self._judge.logits(each, total=self._recipe.outside > 0)
        return (losses(logits, total, labels, self._recipe.outside) * weights).sum()

    def validate(self, *, whole: bool) -> Mapping[str, float]:
        """On all held-out examples, or on `QUICK` of them."""
        chosen = self._kept.prompts if whole else self._kept.prompts[:: max(1, len(self._kept.prompts) // QUICK)]
        found, outside = self.judged(chosen)
        return measures([self._kept.examples[prompt.place] for prompt in chosen], found, outside)

    def judged(self, prompts: Sequence[Prompt]) -> tuple[list[float], list[float]]:
        """Score and probability outside of both answers of each prompt, in order."""
        laid = batches(packs(prompts, self._recipe.layout), self._recipe.layout)
        order = {id(prompt): number for number, prompt in enumerate(prompts)}
        places = [order[id(prompt)] for each in laid for prompt in each.prompts]
        told = zip(places, *scores(self._judge, laid), strict=True)
        ordered = [(score, outside) for _, score, outside in sorted(told)]
        return [score for score, _ in ordered], [outside for _, outside in ordered]


def _planned(prompts: Sequence[Prompt], recipe: Recipe) -> list[list[Batch]]:
    """The passes of every step."""
    found: list[list[Batch]] = []
    number = 0
    while number < recipe.epochs if recipe.steps is None else len(found) < recipe.steps:
        found += epoch(prompts, recipe.layout, f"{recipe.pace.seed}:{number}")
        number += 1
    return found[: recipe.steps]
