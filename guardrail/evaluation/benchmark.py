"""The quality table of a classifier over the shipped policies: which set is asked under which policies, and what comes out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from guardrail.engine.embedded.scorer import Scorer
from guardrail.evaluation.dataset import Item, read_set
from guardrail.evaluation.metrics import Quality, quality
from guardrail.types import Policy

ANY = "any"  # the highest score over all policies, as the proxy asks them


@dataclass(frozen=True, slots=True)
class Task:
    """One row of the table: a set, one of its areas (None: all), and the policy that is asked (ANY: all of them)."""

    set: str
    area: str | None
    policy: str


TASKS = (
    Task("ethos", "hate_speech", "hate_speech"),
    Task("hatecheck", "hate_speech", "hate_speech"),
    Task("openai_moderation", "hate_speech", "hate_speech"),
    Task("openai_moderation", "harassment", "harassment"),
    Task("openai_moderation", "sexual_content", "sexual_content"),
    Task("openai_moderation", "self_harm", "self_harm"),
    Task("openai_moderation", "violence", "violence"),
    Task("surge_toxicity", "toxicity", "toxicity"),
    Task("toxicchat", "toxicity", "toxicity"),
    Task("toxicchat", "jailbreak", "prompt_attack"),
    Task("xstest", "general_harm", ANY),
    Task("jbb_behaviors", "general_harm", ANY),
    Task("notinject", "jailbreak", "prompt_attack"),
    Task("notinject", "jailbreak", ANY),
    Task("gsm8k_test", "benign", ANY),
    Task("self_instruct", "benign", ANY),
    Task("mtbench_vicuna", "benign", ANY),
    Task("truthfulqa", "benign", ANY),
)
BENIGN = ("gsm8k_test", "self_instruct", "mtbench_vicuna", "truthfulqa")


@dataclass(frozen=True, slots=True)
class Line:
    """A measured row of the table."""

    task: Task
    quality: Quality


@dataclass(frozen=True, slots=True)
class Scored:
    """A task's texts with the score of each policy that was asked: `scores[i][policy id]`."""

    task: Task
    items: tuple[Item, ...]
    scores: tuple[dict[str, float], ...]

    def line(self, thresholds: dict[str, float]) -> Line:
        """The table row under given thresholds; a text is flagged when any asked policy reaches its threshold."""
        labels = [item.label or 0 for item in self.items]
        flags = [any(value >= thresholds[policy] for policy, value in row.items()) for row in self.scores]
        return Line(self.task, quality([max(row.values()) for row in self.scores], labels, flags))


def score_tasks(
    scorer: Scorer, policies: Sequence[Policy], data: Path, *, limit: int | None = None, tasks: Iterable[Task] = TASKS
) -> Iterator[Scored]:
    """Score each task's texts, `limit` evenly spaced ones at most; yields as it goes so that progress can be shown."""
    scorer.prepare(policies)
    for task in tasks:
        items = read_set(data, task.set, areas=None if task.area is None else (task.area,))
        if limit is not None and len(items) > limit:
            items = [items[place * len(items) // limit] for place in range(limit)]
        asked = [policy for policy in policies if task.policy in (ANY, policy.id)]
        rows: list[dict[str, float]] = []
        for first in range(0, len(items), 64):
            chunk = items[first : first + 64]
            found = iter(scorer.score([(item.text, policy) for item in chunk for policy in asked]))
            rows += [{policy.id: next(found).value for policy in asked} for _ in chunk]
        yield Scored(task, tuple(items), tuple(rows))
