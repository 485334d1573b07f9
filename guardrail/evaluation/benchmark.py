"""The quality table of a classifier over the shipped policies: which set is asked under which policies, and what comes out."""

import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from guardrail.errors import ClassifierError
from guardrail.evaluation.dataset import Item, read_set
from guardrail.evaluation.metrics import Quality, quality
from guardrail.interfaces import Classifier
from guardrail.types import ClassifyRequest, Policy

CHUNK = 64  # texts a call
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


async def score_tasks(classifier: Classifier, policies: Sequence[Policy], data: Path, *, limit: int | None = None) -> AsyncIterator[Scored]:
    """Score each task's texts, `limit` evenly spaced ones at most; yields task by task so that progress can be shown.

    Raises ClassifierError when a text could not be scored: a table with holes would flatter.
    """
    await classifier.prepare(policies)
    known: dict[tuple[str, str], float] = {}
    for task in TASKS:
        items = read_set(data, task.set, areas=None if task.area is None else (task.area,))
        if limit is not None and len(items) > limit:
            items = [items[place * len(items) // limit] for place in range(limit)]
        asked = [policy for policy in policies if task.policy in (ANY, policy.id)]
        rows: list[dict[str, float]] = []
        for first in range(0, len(items), CHUNK):
            chunk = items[first : first + CHUNK]
            requests = [ClassifyRequest(policy, item.text) for item in chunk for policy in asked if (policy.digest, item.text) not in known]
            answers = await classifier.classify(requests, deadline=time.monotonic() + 3600)
            for request, answer in zip(requests, answers, strict=True):
                if isinstance(answer, ClassifierError):
                    raise answer
                known[request.policy.digest, request.text] = answer.value
            rows += [{policy.id: known[policy.digest, item.text] for policy in asked} for item in chunk]
        yield Scored(task, tuple(items), tuple(rows))


def pooled_flag_rate(lines: Iterable[Line], sets: Iterable[str] = BENIGN) -> tuple[float, int]:
    """Share of flagged texts over several sets together, and how many texts there are."""
    chosen = [line.quality for line in lines if line.task.set in set(sets) and line.task.policy == ANY]
    rows = sum(each.rows for each in chosen)
    return (sum(each.flagged * each.rows for each in chosen) / rows if rows else 0.0, rows)


def markdown(lines: Sequence[Line]) -> str:
    """The table as GitHub Markdown; a dash where only one label occurs."""
    head = "| set | area | asked | rows | violating | ROC AUC | AUPRC | precision | recall | F1 | flagged |"
    out = [head, "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|"]
    for line in lines:
        q = line.quality
        asked = "all eight" if line.task.policy == ANY else line.task.policy
        cells = [line.task.set, line.task.area or "all", asked, str(q.rows), str(q.positives)]
        cells += [f"{value:.3f}" if value is not None else "-" for value in (q.auc, q.auprc)]
        cells += [f"{value:.2f}" if q.positives else "-" for value in (q.precision, q.recall, q.f1)]
        cells.append(f"{q.flagged:.1%}")
        out.append(f"| {' | '.join(cells)} |")
    rate, rows = pooled_flag_rate(lines)
    return "\n".join([*out, "", f"Benign sets together, all eight policies on: {rate:.2%} of {rows} texts flagged."])
