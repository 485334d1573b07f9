"""A comparison as Markdown for people and as JSON for programs. Texts are named by their ids only."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from guardrail.evaluation.comparison import Comparison, Pair, Run, Tally, Tested, flips
from guardrail.evaluation.predictions import named
from guardrail.evaluation.summary import latency

MOST_FLIPS = 20  # in the Markdown; the JSON holds them all


def markdown(comparison: Comparison, *, plot: str | None = None) -> str:
    """The report; `plot` is where the picture lies, beside it."""
    parts = ["# Two runs compared", *_head(comparison)]
    if plot is not None:
        parts.append(f"![Scores, curves and changed verdicts of both runs]({plot})")
    parts += ["## Verdicts", _verdicts(comparison.tallies)]
    tested = [(tally.name, tally.tested) for tally in comparison.tallies if tally.tested is not None]
    if tested:
        parts += ["## Against the labels", _quality(tested), _changes(tested)]
        parts.append(
            "mended: wrong in A, right in B; broken: the other way round. p: exact two-sided McNemar test of mended against broken,"
            " with texts taken as independent, not corrected for the number of tests."
        )
    parts += ["## By policy", _policies(comparison), "## Time", _times(comparison)]
    if changed := flips(comparison.pairs):
        parts += [f"## Flips ({len(changed)})", _flips(changed[:MOST_FLIPS])]
    return "\n\n".join(parts) + "\n"


def document(comparison: Comparison) -> dict[str, Any]:
    """Everything, flips by id included, as JSON has it."""
    return {
        "first": _run(comparison.first),
        "second": _run(comparison.second),
        "texts": len(comparison.pairs),
        "alone": comparison.alone,
        "failed": comparison.failed,
        "intervals_drawn_by": "unit" if comparison.drawn_by_unit else "text",
        "sets": [{"texts": tally.texts, **asdict(tally)} for tally in comparison.tallies],
        "policies": [asdict(each) for each in comparison.policies],
        "flips": [asdict(pair) for pair in flips(comparison.pairs)],
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        "classifier": run.info.classifier,
        "policies": [asdict(policy) for policy in run.info.policies],
        "sets": [asdict(each) for each in run.info.sets],
        "latency": asdict(latency(run.found.values())),
    }


def _head(comparison: Comparison) -> list[str]:
    told = [f"- A: `{comparison.first.info.classifier}`\n- B: `{comparison.second.info.classifier}`"]
    drawn = "unit" if comparison.drawn_by_unit else "text"
    counts = f"{len(comparison.pairs):,} texts judged by both; intervals are of 95%, by bootstrap over {drawn}s."
    if comparison.alone or comparison.failed:
        counts += f" Left out: {comparison.alone:,} judged by one run only or under other policies,"
        counts += f" {comparison.failed:,} that a run could not judge."
    digests = {policy.id: policy.digest for policy in comparison.first.info.policies}
    changed = [policy.id for policy in comparison.second.info.policies if digests.get(policy.id, policy.digest) != policy.digest]
    if changed:
        counts += f" Policies with another text in B: {', '.join(changed)}."
    return [*told, counts]


def _verdicts(tallies: Sequence[Tally]) -> str:
    rows = [
        [tally.name, tally.texts, tally.both, tally.only_first, tally.only_second, tally.neither, _interval(tally)] for tally in tallies
    ]
    return _table(["set", "texts", "both flag", "A alone", "B alone", "neither", "kappa"], rows)


def _interval(tally: Tally) -> str:
    return f"{tally.kappa.value:.2f} [{tally.kappa.low:.2f}, {tally.kappa.high:.2f}]"


def _quality(tested: Sequence[tuple[str, Tested]]) -> str:
    head = ["set", "texts", "violating", *(f"{name} {side}" for name in ("AUC", "AUPRC", "F1", "recall", "FPR") for side in "AB")]
    rows = []
    for name, each in tested:
        cells: list[object] = [name, each.first.rows, each.first.positives]
        sides = (each.first, each.second)
        both = 0 < each.first.positives < each.first.rows
        for figure in ("auc", "auprc"):
            cells += ["-" if not both else f"{getattr(side, figure):.3f}" for side in sides]
        for figure in ("f1", "recall"):
            cells += [f"{getattr(side, figure):.2f}" if side.positives else "-" for side in sides]
        cells += [f"{side.false_positive_rate:.1%}" if side.positives < side.rows else "-" for side in sides]
        rows.append(cells)
    return _table(head, rows)


def _changes(tested: Sequence[tuple[str, Tested]]) -> str:
    return _table(["set", "mended", "broken", "p"], [[name, each.mended, each.broken, f"{each.p:.2g}"] for name, each in tested])


def _policies(comparison: Comparison) -> str:
    rows = [
        [
            named(each.policy, each.stage),
            each.verdicts,
            *(f"{value:g}" for value in each.thresholds),
            each.only_first,
            each.only_second,
            f"{each.distance:.3f}",
        ]
        for each in comparison.policies
    ]
    return _table(["policy", "verdicts", "threshold A", "threshold B", "A alone", "B alone", "mean distance of scores"], rows)


def _times(comparison: Comparison) -> str:
    rows = []
    for name, run in (("A", comparison.first), ("B", comparison.second)):
        found = latency(run.found.values())
        rows.append([name, *(f"{value:.1f}" for value in (found.p50_ms, found.p95_ms, found.p99_ms, found.items_per_second))])
    return _table(["run", "p50 ms", "p95 ms", "p99 ms", "texts/s"], rows) + "\n\nOf each run's calls, on the machine that it was made on."


def _flips(pairs: Sequence[Pair]) -> str:
    rows = [
        [pair.set, f"`{pair.item}`", "-" if pair.label is None else pair.label, f"{pair.first.score:.3f}", f"{pair.second.score:.3f}"]
        for pair in pairs
    ]
    return _table(["set", "id", "label", "score A", "score B"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """GitHub Markdown; the first column is text, the others are numbers."""
    lines = [list(head), ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '&#124;') for cell in line)} |" for line in lines)
