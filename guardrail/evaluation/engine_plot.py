"""The engine's bench as one SVG: how many times as fast, what a check of a growing answer costs, latency by resident policies.

Drawn by hand: a picture of a few bars and lines is not worth a plotting library. It refers to nothing outside itself.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 860
BAR_HEIGHT = 24
LEFT, RIGHT, TOP = 320, 90, 44
PLOT_HEIGHT = 220
COLOURS = ("#1b6ca8", "#e07a1f", "#8a8a8a", "#3a9d5d")
STYLE = "text{font:13px system-ui,sans-serif;fill:#222}.t{font-weight:600;font-size:15px}.s{fill:#666;font-size:12px}"


@dataclass(frozen=True, slots=True)
class Series:
    """A line through points (x, y), y above zero."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """A part of the picture: `body` is drawn from its own top left corner."""

    height: int
    body: str


def picture(panels: Iterable[Panel]) -> str:
    """The panels, one below the other."""
    parts, top = [], 0
    for panel in panels:
        parts.append(f'<g transform="translate(0,{top})">{panel.body}</g>')
        top += panel.height
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}" role="img">'
    return f'{head}<style>{STYLE}</style><rect width="{WIDTH}" height="{top}" fill="#fff"/>{"".join(parts)}</svg>'


def bars(title: str, unit: str, values: Sequence[tuple[str, float]]) -> Panel:
    """Horizontal bars on a logarithmic axis that begins at the smallest power of ten below them all; what is not a number has none."""
    known = [value for _, value in values if value > 0 and math.isfinite(value)]
    low, high = _decades(known)
    parts = [_text(8, 24, title, "t")]
    for place, (name, value) in enumerate(values):
        top = TOP + place * BAR_HEIGHT
        parts.append(_text(LEFT - 8, top + 15, name, end=True))
        if value > 0 and math.isfinite(value):
            width = max(2.0, _share(value, low, high) * (WIDTH - LEFT - RIGHT))
            colour = COLOURS[0] if name.startswith("ours") else COLOURS[2]
            parts.append(f'<rect x="{LEFT}" y="{top}" width="{width:.1f}" height="{BAR_HEIGHT - 6}" fill="{colour}"/>')
            parts.append(_text(LEFT + width + 6, top + 15, f"{value:.3g}{unit}"))
        else:
            parts.append(_text(LEFT + 6, top + 15, "-", "s"))
    return Panel(TOP + len(values) * BAR_HEIGHT + 16, "".join(parts))


def lines(title: str, axes: tuple[str, str], series: Sequence[Series]) -> Panel:
    """Lines over a linear x axis and a logarithmic y axis, with a legend on the left. `axes` name x and y."""
    points = [point for one in series for point in one.points if point[1] > 0 and math.isfinite(point[1])]
    low, high = _decades([y for _, y in points])
    farthest = max((x for x, _ in points), default=1.0) or 1.0
    base = TOP + PLOT_HEIGHT
    parts = [_text(8, 24, title, "t"), _text(WIDTH - RIGHT, base + 32, axes[0], "s", end=True), _text(8, TOP + 12, axes[1], "s")]
    for exponent in range(round(math.log10(low)), round(math.log10(high)) + 1):
        y = base - _share(10.0**exponent, low, high) * PLOT_HEIGHT
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{10.0**exponent:g}", "s", end=True))
    parts += [_text(LEFT, base + 18, "0", "s"), _text(WIDTH - RIGHT, base + 18, f"{farthest:g}", "s", end=True)]
    for number, one in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        places = [
            (LEFT + x / farthest * (WIDTH - LEFT - RIGHT), base - _share(y, low, high) * PLOT_HEIGHT)
            for x, y in one.points
            if y > 0 and math.isfinite(y)
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in places]
        parts.append(f'<rect x="8" y="{TOP + 34 + 22 * number}" width="12" height="12" fill="{colour}"/>')
        parts.append(_text(26, TOP + 45 + 22 * number, one.name))
    return Panel(base + 52, "".join(parts))


def _decades(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return 1.0, 10.0
    low = 10.0 ** math.floor(math.log10(min(values)))
    return low, max(10.0 ** math.ceil(math.log10(max(values))), 10 * low)


def _share(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low)


def _text(x: float, y: float, text: str, style: str = "", *, end: bool = False) -> str:
    looks = (f' class="{style}"' if style else "") + (' text-anchor="end"' if end else "")
    return f'<text x="{x:.1f}" y="{y:.1f}"{looks}>{escape(text)}</text>'
