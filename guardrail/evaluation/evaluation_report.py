"""A run as Markdown and as one JSON document of numbers. Neither holds a text."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from guardrail.evaluation.crossfit import COLUMNS, Proposed, proposed
from guardrail.evaluation.predictions import named
from guardrail.evaluation.published import HEAD as PUBLISHED_HEAD
from guardrail.evaluation.published import published
from guardrail.evaluation.run import ANY
from guardrail.evaluation.summary import Judged, Row, Summary
from guardrail.evaluation.thresholds import TARGETS
from guardrail.types import Stage

WORST = 10
ELSEWHERE = "As their sources print them: other rows, other policies, not measured here. For orientation only."
PROPOSED = (
    "What a target would set, chosen on all texts, and what such a choice does to texts that had no part in it (units dealt into five"
    " folds, each cut by the threshold of the others; their range). Presets are published numbers, not fitted to these texts."
)
HEAD = (
    "set | asked | rows | violating | precision | recall | F1 | FPR | ROC AUC | AUPRC | recall at 1% FPR | at 5% FPR | ECE | Brier"
    " | kappa (95%) | not judged"
)


def proposals(summary: Summary, targets: Sequence[str] = TARGETS) -> dict[tuple[str, Stage], tuple[Proposed, ...]]:
    """For each policy and stage what the targets ask for, without those that its texts cannot answer."""
    return {key: tuple(found for target in targets if (found := proposed(pool, target))) for key, pool in sorted(summary.pooled.items())}


def worst(row: Row, count: int = WORST) -> list[Judged]:
    """The wrong verdicts with the most confident scores: missed texts with the lowest, false flags with the highest."""
    wrong = [each for each in row.judged if each.wrong]
    return sorted(wrong, key=lambda each: (-abs(each.score - each.label), each.item.id))[:count]


def cells(row: Row) -> list[str]:
    """A row of the table whose columns are `HEAD`; a dash where a number would say nothing."""
    q, both = row.quality, row.curve.both
    shown = [row.name, "all policies" if row.policy == ANY else row.policy, str(q.rows), str(q.positives)]
    shown += [f"{value:.3f}" if q.positives else "-" for value in (q.precision, q.recall, q.f1)]
    shown.append(f"{q.false_positive_rate:.3f}" if q.positives < q.rows else "-")
    shown += ["-" if value is None else f"{value:.3f}" for value in (q.auc, q.auprc, row.recall_at_1, row.recall_at_5)]
    shown += [f"{row.reliability.ece:.3f}", f"{row.reliability.brier:.3f}"]
    shown.append(f"{row.kappa.value:.2f} ({row.kappa.low:.2f} to {row.kappa.high:.2f})" if both else "-")
    return [*shown, str(row.failed)]


def facts(summary: Summary) -> list[str]:
    """Sentences about what was run and how long it took."""
    info, took = summary.info, summary.latency
    thresholds = "; ".join(f"{policy.id} {policy.version} at {policy.thresholds}" for policy in info.policies)
    limit = f", at most {info.limit} texts of a set" if info.limit else ""
    return [
        f"Classifier: {info.classifier}.",
        f"Policies: {thresholds}.",
        f"Data: {', '.join(f'{each.name} (sha256 {each.sha256[:12]})' for each in info.sets)}{limit}.",
        f"A judgement's call of up to {info.batch} texts: median {took.p50_ms:.1f} ms (p95 {took.p95_ms:.1f}, p99 {took.p99_ms:.1f}).",
        f"Pace: {took.items_per_second:.1f} texts/s, {took.judgements_per_second:.1f} judgements/s.",
        "Intervals are 95%, by bootstrap over units. ECE and Brier measure the score as a probability.",
    ]


def markdown(summary: Summary) -> str:
    """The summary as GitHub Markdown."""
    lines = ["# Evaluation", "", *(f"- {fact}" for fact in facts(summary)), "", f"| {HEAD} |", "|---|---|" + "--:|" * (HEAD.count("|") - 1)]
    lines += [f"| {' | '.join(map(_plain, cells(row)))} |" for row in summary.rows]
    if told := list(published(each.name for each in summary.info.sets)):
        lines += ["", "## Published elsewhere", "", ELSEWHERE, "", f"| {' | '.join(PUBLISHED_HEAD)} |", "|---|---|--:|--:|--:|--:|--:|---|"]
        lines += [f"| {' | '.join(each.cells())} |" for each in told]
    lines += ["", "## Thresholds", "", *_threshold_lines(summary)]
    for row in summary.rows:
        if row.sub_labels:
            lines += ["", f"## Finer labels of {_plain(row.name)}", "", *_sub_label_lines(row)]
    return "\n".join(lines) + "\n"


def _threshold_lines(summary: Summary) -> Iterator[str]:
    yield PROPOSED
    yield ""
    yield f"| policy | now | target | {' | '.join(COLUMNS)} |"
    yield "|---|--:|---|" + "--:|" * len(COLUMNS)
    now = summary.info.thresholds()
    for (policy, stage), found in proposals(summary).items():
        for each in found:
            yield f"| {named(policy, stage)} | {now[stage][policy]:g} | {each.here.target} | {' | '.join(each.cells())} |"


def _sub_label_lines(row: Row) -> Iterator[str]:
    yield "| label | caught | missed | falsely flagged | rightly passed | detection rate |"
    yield "|---|--:|--:|--:|--:|--:|"
    for each in row.sub_labels:
        rate = "-" if each.detection is None else f"{each.detection:.3f}"
        yield f"| {_plain(each.name)} | {each.caught} | {each.missed} | {each.false} | {each.passed} | {rate} |"


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def results(summary: Summary) -> dict[str, object]:
    """All numbers as one JSON document; errors by id."""
    return {
        "run": asdict(summary.info),
        "latency": asdict(summary.latency),
        "rows": [
            {
                "set": row.set,
                "area": row.area,
                "policy": row.policy,
                "failed": row.failed,
                "quality": {**asdict(row.quality), "fpr": row.quality.false_positive_rate},
                "recall_at_fpr": {"0.01": row.recall_at_1, "0.05": row.recall_at_5},
                "reliability": asdict(row.reliability),
                "kappa": asdict(row.kappa),
                "sub_labels": [{**asdict(each), "detection": each.detection} for each in row.sub_labels],
                "worst": [{"item": each.item.id, "label": each.label, "scores": dict(each.scores)} for each in worst(row)],
            }
            for row in summary.rows
        ],
        "thresholds": _proposals(summary),
    }


def _proposals(summary: Summary) -> dict[str, list[dict[str, object]]]:
    told: dict[str, list[dict[str, object]]] = {}
    for (policy, stage), found in proposals(summary).items():
        crossed = [asdict(each.crossed) if each.crossed else None for each in found]
        rows = [{"stage": stage.value, **asdict(each.here), "crossed": it} for each, it in zip(found, crossed, strict=True)]
        told.setdefault(policy, []).extend(rows)
    return told
