"""A run as one HTML file that needs nothing else: tables, curves as SVG, errors by id, and texts only when they are asked for."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape

import numpy as np

from guardrail.evaluation.crossfit import COLUMNS
from guardrail.evaluation.evaluation_report import ELSEWHERE, HEAD, PROPOSED, cells, facts, proposals, worst
from guardrail.evaluation.predictions import named
from guardrail.evaluation.published import HEAD as PUBLISHED_HEAD
from guardrail.evaluation.published import published
from guardrail.evaluation.summary import Judged, Row, Summary
from guardrail.ranking import Floats

SIDE, EDGE = 240, 34  # pixels of a plot's square, and around it
POINTS = 400  # of a curve, at most: more cannot be seen

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
table{border-collapse:collapse;margin:.8rem 0;font-variant-numeric:tabular-nums;display:block;overflow-x:auto}
th,td{padding:.2rem .6rem;border-bottom:1px solid #d8dee4;text-align:right}
th:first-child,td:first-child{text-align:left}
figure{display:inline-block;margin:.4rem}figcaption{text-align:center;color:#57606a}
svg text{font:11px system-ui,sans-serif;fill:#57606a}pre{white-space:pre-wrap;text-align:left;margin:0}
@media (prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}th,td{border-color:#30363d}}
"""


def page(summary: Summary, *, text: bool = False) -> str:
    """The document. With `text` the worst errors show what was judged: mind who reads it."""
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>Evaluation</title><style>{_STYLE}</style>"
    told = "".join(f"<li>{escape(fact)}" for fact in facts(summary))
    body = [f"<h1>Evaluation</h1><ul>{told}</ul>", _table(HEAD.split(" | "), map(cells, summary.rows))]
    if others := [each.cells() for each in published(each.name for each in summary.info.sets)]:
        body.append(f"<h2>Published elsewhere</h2><p>{ELSEWHERE}</p>{_table(PUBLISHED_HEAD, others)}")
    body.append(f"<h2>Thresholds</h2><p>{PROPOSED}</p>")
    body.append(_table(("policy", "target", *COLUMNS), _proposed(summary)))
    body += [_section(row, text=text) for row in summary.rows]
    return head + "\n".join(body) + "\n"


def _section(row: Row, *, text: bool) -> str:
    parts = [f"<h2>{escape(row.name)}</h2>", _plots(row)]
    if row.sub_labels:
        labels = (
            (each.name, *map(str, (each.caught, each.missed, each.false, each.passed)), _share(each.detection)) for each in row.sub_labels
        )
        parts += [
            "<h3>Finer labels</h3>",
            _table(("label", "caught", "missed", "falsely flagged", "rightly passed", "detection rate"), labels),
        ]
    if wrong := worst(row):
        head = ["id", "label", "scores", *(["text"] if text else [])]
        parts += ["<h3>Worst errors</h3>", _table(head, (_error(each, text=text) for each in wrong))]
    return "\n".join(parts)


def _error(judged: Judged, *, text: bool) -> list[str]:
    strongest = sorted(judged.scores.items(), key=lambda pair: -pair[1])[:3]
    scores = ", ".join(f"{policy} {score:.3f}" for policy, score in strongest)
    return [judged.item.id, "violates" if judged.label else "does not", scores, *([judged.item.text] if text else [])]


def _proposed(summary: Summary) -> Iterator[list[str]]:
    for (policy, stage), found in proposals(summary).items():
        for each in found:
            yield [named(policy, stage), each.here.target, *each.cells()]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    top = "".join(f"<th>{escape(each)}" for each in head)
    return f"<table><tr>{top}{''.join('<tr>' + ''.join(f'<td>{escape(cell)}' for cell in row) for row in rows)}</table>"


def _plots(row: Row) -> str:
    made = []
    if row.curve.both:
        fpr, recall = _thinned(np.append(0.0, row.curve.fpr)), _thinned(np.append(0.0, row.curve.recall))
        made.append(_plot("ROC", ("false positive rate", "recall"), _path(fpr, recall) + _DIAGONAL))
        made.append(
            _plot("Precision and recall", ("recall", "precision"), _path(_thinned(row.curve.recall), _thinned(row.curve.precision)))
        )
    bins = row.reliability.bins
    largest = max(each.rows for each in bins)
    dots = "".join(
        f'<circle cx="{_x(each.mean)}" cy="{_y(each.share)}" r="{2 + 6 * (each.rows / largest) ** 0.5:.1f}" fill="#1f6feb">'
        f"<title>{each.rows} texts, mean score {each.mean:.3f}, {each.share:.3f} violate</title></circle>"
        for each in bins
    )
    made.append(_plot("Reliability", ("score", "share that violates"), dots + _DIAGONAL))
    return "".join(made)


def _plot(title: str, axes: tuple[str, str], drawn: str) -> str:
    size, middle = SIDE + 2 * EDGE, EDGE + SIDE / 2
    ticks = "".join(
        f'<text x="{_x(value)}" y="{EDGE + SIDE + 13}" text-anchor="middle">{value:g}</text>'
        f'<text x="{EDGE - 4}" y="{_y(value)}" text-anchor="end" dominant-baseline="middle">{value:g}</text>'
        for value in (0.0, 0.5, 1.0)
    )
    frame = f'<rect x="{EDGE}" y="{EDGE}" width="{SIDE}" height="{SIDE}" fill="none" stroke="#8c959f"/>'
    names = (
        f'<text x="{middle}" y="{size - 6}" text-anchor="middle">{axes[0]}</text>'
        f'<text transform="translate(11,{middle}) rotate(-90)" text-anchor="middle">{axes[1]}</text>'
    )
    return (
        f'<figure><svg role="img" aria-label="{title}" width="{size}" height="{size}">{frame}{ticks}{names}{drawn}</svg>'
        f"<figcaption>{title}</figcaption></figure>"
    )


def _path(across: Sequence[float] | Floats, up: Sequence[float] | Floats) -> str:
    points = " ".join(f"{_x(x)},{_y(y)}" for x, y in zip(across, up, strict=True))
    return f'<polyline points="{points}" fill="none" stroke="#1f6feb" stroke-width="1.6"/>'


def _thinned(values: Floats) -> Floats:
    if len(values) <= POINTS:
        return values
    return values[np.linspace(0, len(values) - 1, POINTS).round().astype(np.int64)]


def _x(value: float) -> str:
    return f"{EDGE + SIDE * value:.1f}"


def _y(value: float) -> str:
    return f"{EDGE + SIDE * (1 - value):.1f}"


_DIAGONAL = f'<line x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}" stroke="#8c959f" stroke-dasharray="3 4"/>'
