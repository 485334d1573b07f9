"""The sampler of a run with contradictory examples: a part of its steps are contradiction steps, the others are as ever."""

import random
from collections.abc import Sequence
from pathlib import Path

from guardrail.training.contradictory import HELD_GROUPS, Builder, Contradictions
from guardrail.training.contrasts import contrast_rows
from guardrail.training.labels import Aim
from guardrail.training.rows import TrainingRow
from guardrail.training.sampler import Batch, Materials, Sampler
from guardrail.training.triples import manifest, steps_of, survey, write_manifest
from guardrail.training.variants import Wordings


def builder_rows(rows: Sequence[TrainingRow], wordings: Wordings, *, seed: int = 1, held_out: bool = False) -> list[TrainingRow]:
    """What contradiction steps are made of: the given rows and our own contrasts (`held_out`: those kept for testing)."""
    return [*rows, *contrast_rows(wordings.group_names, seed=seed, held_out=held_out)]


class ContradictorySampler(Sampler):
    """Draws batches of a run of `steps`. A step that is no contradiction step is the plain sampler's without what is held out."""

    def __init__(self, rows: Sequence[TrainingRow], materials: Materials, recipe: Contradictions, *, seed: int, steps: int) -> None:
        """Where the wordings are those kept for testing, so are our own contrasts that stand beside the rows."""
        super().__init__(rows, materials, seed=seed)
        self._recipe, self._steps = recipe, steps
        topics = tuple(materials.wordings.topics)
        self._rows_of_steps = builder_rows(rows, materials.wordings, held_out=materials.wordings.held_out)
        self._builder = Builder(self._rows_of_steps, topics, recipe)
        self._learnt_topics = self._builder.topics

    def batch(self, step: int) -> Batch:
        """The batch of a step: the same for the same seed and step, whatever came before."""
        if not self._recipe.falls_on(step, self._steps, self._seed):
            return super().batch(step)
        found = self._builder.step(self._seed, step)
        random_ = random.Random(f"wording:{self._seed}:{step}")  # noqa: S311  (sampling, not secrecy)
        variants = [self._variant(aim, random_) for aim in found.aims]
        return self._tensors([row.text for row in found.rows], found.answers, variants, random_, asked=self._recipe.asked)

    def describe(self, data: Path, path: Path) -> str:
        """Write the manifest of the run's contradiction steps and return its sha256. `data` holds SETS.json."""
        found = survey(steps_of(self._builder, self._recipe, seed=self._seed, steps=self._steps))
        return write_manifest(path, manifest(self._rows_of_steps, self._recipe, found, seed=self._seed, data=data))

    def _aims(self, rows: Sequence[TrainingRow], random_: random.Random) -> list[Aim]:
        aims = super()._aims(rows, random_)
        topics = [Aim("topic", random_.choice(self._learnt_topics)) if aim.kind == "topic" and self._learnt_topics else aim for aim in aims]
        return [aim for aim in topics if not (aim.kind in ("scoped", "except_group") and aim.name in HELD_GROUPS)]
