"""A comparison as one SVG: both scores of each text, ROC and precision-recall curves of both runs, and what was mended and broken.

Drawn by hand, as the other plots are; it refers to nothing outside itself and holds no text of the data.
"""

from collections.abc import Iterable, Sequence
from html import escape
from typing import TypeVar

import numpy as np

from guardrail.evaluation.comparison import Comparison, Pair, Tally
from guardrail.ranking import Curve, curve

T = TypeVar("T")

SIDE, GAP, TOP = 260, 70, 70
WIDTH = 3 * SIDE + 4 * GAP
BAR = 24
MOST_DOTS, MOST_POINTS = 3000, 400  # bound the file's size; evenly spaced ones are drawn
FIRST, SECOND, VIOLATES, HARMLESS = "#1b6ca8", "#e07a1f", "#b3261e", "#3a9d5d"
STYLE = "text{font:13px system-ui,sans-serif;fill:#222}.t{font-weight:600;font-size:15px}.s{fill:#666;font-size:12px}"


def picture(comparison: Comparison) -> str:
    """The whole picture. `A` is the first run, `B` the second."""
    labelled = [pair for pair in comparison.pairs if pair.label is not None]
    labels = [pair.label or 0 for pair in labelled]
    curves = [curve([pair.first.score for pair in labelled], labels), curve([pair.second.score for pair in labelled], labels)]
    bars, height = _changes(comparison.tallies)
    panels = [_dots(comparison.pairs), _curves("ROC", ("false positive rate", "recall"), [_roc(each) for each in curves])]
    panels.append(_curves("Precision and recall", ("recall", "precision"), [_precision(each) for each in curves]))
    placed = [f'<g transform="translate({GAP + place * (SIDE + GAP)},{TOP})">{panel}</g>' for place, panel in enumerate(panels)]
    below = TOP + SIDE + 60
    total = below + height
    legend = _legend(GAP, 20, f"A: {comparison.first.info.classifier}", FIRST) + _legend(
        GAP, 42, f"B: {comparison.second.info.classifier}", SECOND
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{total}" viewBox="0 0 {WIDTH} {total}" role="img">'
    body = f'{"".join(placed)}<g transform="translate(0,{below})">{bars}</g>'
    return f'{head}<style>{STYLE}</style><rect width="{WIDTH}" height="{total}" fill="#fff"/>{legend}{body}</svg>\n'


def _dots(pairs: Sequence[Pair]) -> str:
    colours = {1: VIOLATES, 0: HARMLESS, None: "#8a8a8a"}
    parts = [_frame("Scores of each text", ("score of A", "score of B")), f'<path d="M0,{SIDE}L{SIDE},0" stroke="#ccc" fill="none"/>']
    parts += [
        f'<circle cx="{pair.first.score * SIDE:.1f}" cy="{(1 - pair.second.score) * SIDE:.1f}" r="2" fill="{colours[pair.label]}"'
        ' fill-opacity=".45"/>'
        for pair in _thinned(pairs, MOST_DOTS)
    ]
    return "".join([*parts, _legend(6, 16, "violates", VIOLATES), _legend(6, 34, "does not", HARMLESS)])


def _curves(title: str, axes: tuple[str, str], found: Sequence[Sequence[tuple[float, float]]]) -> str:
    parts = [_frame(title, axes)]
    for points, colour in zip(found, (FIRST, SECOND), strict=True):
        drawn = " ".join(f"{x * SIDE:.1f},{(1 - y) * SIDE:.1f}" for x, y in points)
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="2"/>')
    if not any(found):
        parts.append(_text(SIDE / 2, SIDE / 2, "needs texts of both labels", "s", anchor="middle"))
    return "".join(parts)


def _roc(found: Curve) -> list[tuple[float, float]]:
    if not found.both:
        return []
    return [(0.0, 0.0), *_thinned(list(zip(found.fpr.tolist(), found.recall.tolist(), strict=True)), MOST_POINTS)]


def _precision(found: Curve) -> list[tuple[float, float]]:
    return _thinned(list(zip(found.recall.tolist(), found.precision.tolist(), strict=True)), MOST_POINTS) if found.both else []


def _changes(tallies: Iterable[Tally]) -> tuple[str, int]:
    """Bars for each set: mended to the right, broken to the left, as shares of its texts. Also how high they are together."""
    tested = [(tally.name, tally.tested, tally.texts) for tally in tallies if tally.tested is not None]
    most = max((max(each.mended, each.broken) / texts for _, each, texts in tested), default=0.0) or 1.0
    middle, room = WIDTH / 2 + GAP, WIDTH / 2 - 3 * GAP
    parts = [
        _text(GAP, 16, "Share of texts whose verdict changed", "t"),
        _text(middle - 6, 16, "broken by B", "s", anchor="end"),
        _text(middle + 6, 16, "mended by B", "s"),
    ]
    for place, (name, each, texts) in enumerate(tested):
        top = 28 + place * BAR
        left, right = (each.broken / texts / most * room, each.mended / texts / most * room)
        parts.append(_text(GAP, top + 14, name))
        parts.append(f'<rect x="{middle - left:.1f}" y="{top}" width="{left:.1f}" height="{BAR - 6}" fill="{VIOLATES}"/>')
        parts.append(f'<rect x="{middle:.1f}" y="{top}" width="{right:.1f}" height="{BAR - 6}" fill="{HARMLESS}"/>')
        parts.append(_text(middle - left - 4, top + 14, f"{each.broken / texts:.1%}", "s", anchor="end"))
        parts.append(_text(middle + right + 4, top + 14, f"{each.mended / texts:.1%}", "s"))
    return "".join(parts), 44 + len(tested) * BAR


def _frame(title: str, axes: tuple[str, str]) -> str:
    """A square from 0 to 1 both ways, with a title and names of x and y."""
    parts = [f'<rect width="{SIDE}" height="{SIDE}" fill="none" stroke="#999"/>', _text(0, -8, title, "t")]
    for tick in (0.0, 0.5, 1.0):
        parts.append(_text(tick * SIDE, SIDE + 16, f"{tick:g}", "s", anchor="middle"))
        parts.append(_text(-6, (1 - tick) * SIDE + 4, f"{tick:g}", "s", anchor="end"))
    parts.append(_text(SIDE / 2, SIDE + 34, axes[0], "s", anchor="middle"))
    parts.append(f'<g transform="translate(-34,{SIDE / 2}) rotate(-90)">{_text(0, 0, axes[1], "s", anchor="middle")}</g>')
    return "".join(parts)


def _thinned(every: Sequence[T], most: int) -> list[T]:
    """At most so many, evenly spaced, the first and the last among them."""
    if len(every) <= most:
        return list(every)
    return [every[place] for place in np.linspace(0, len(every) - 1, most).round().astype(int)]


def _legend(x: float, y: float, name: str, colour: str) -> str:
    return f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{colour}"/>{_text(x + 18, y + 1, name)}'


def _text(x: float, y: float, text: str, style: str = "", *, anchor: str = "start") -> str:
    looks = (f' class="{style}"' if style else "") + (f' text-anchor="{anchor}"' if anchor != "start" else "")
    return f'<text x="{x:.1f}" y="{y:.1f}"{looks}>{escape(text)}</text>'
