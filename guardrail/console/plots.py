"""The console's plots. Each comes with words for those who do not see it, and stands beside a table of the same numbers."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from markupsafe import Markup

from guardrail.console.svg import Drawing

LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 26
Words = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Frame:
    """Where data lie in a drawing: values from 0 to `most` upwards, `count` equal steps from left to right."""

    drawing: Drawing
    most: float
    count: int

    @property
    def base(self) -> float:
        """The height of value 0 on the page."""
        return self.drawing.height - BOTTOM

    @property
    def step(self) -> float:
        """The width of one step."""
        return (self.drawing.width - LEFT - RIGHT) / max(1, self.count)

    def x(self, place: float) -> float:
        """Where a step begins."""
        return LEFT + place * self.step

    def y(self, value: float) -> float:
        """How high a value lies."""
        return self.base - (self.base - TOP) * min(1.0, value / self.most)

    def grid(self, words: Words) -> None:
        """Horizontal lines with their values."""
        for share in (0.0, 0.5, 1.0):
            value = self.most * share
            self.drawing.line((LEFT, self.y(value)), (self.drawing.width - RIGHT, self.y(value)), "axis" if share == 0 else "grid")
            self.drawing.text(LEFT - 8, self.y(value) + 4, words(value), anchor="end")


def traffic(name: str, title: str, starts: Sequence[float], series: Mapping[str, Sequence[int]]) -> Markup:
    """Counts over time as stacked bars; the names of the series are their classes in the style sheet. `starts`: seconds since 1970."""
    sums = [sum(column) for column in zip(*series.values(), strict=True)]
    words = ", ".join(f"{sum(values):,} {kind}" for kind, values in series.items())
    drawing = Drawing(name, title, f"Stacked bars over {len(starts)} intervals. In all: {words}. The table below holds each interval.")
    frame = Frame(drawing, ceiling(max(sums, default=0)), len(starts))
    frame.grid(lambda value: f"{value:,.0f}" if value == round(value) else f"{value:,.1f}")
    for place in range(len(starts)):
        under = 0
        for kind, values in series.items():
            if values[place]:
                top, base = frame.y(under + values[place]), frame.y(under)
                left, width, height = frame.x(place) + frame.step * 0.12, frame.step * 0.76, max(1.0, base - top)
                drawing.add("rect", x=left, y=top, width=width, height=height, class_=f"bar {kind}")
            under += values[place]
    _times(frame, starts)
    return drawing.markup()


def latency(name: str, title: str, starts: Sequence[float], series: Mapping[str, Sequence[float | None]]) -> Markup:
    """Durations (seconds) over time, a line for each percentile. Where nothing was judged the line has a gap."""
    found = [value for values in series.values() for value in values if value is not None]
    words = ", ".join(f"{kind} at most {_ms(max((v for v in values if v is not None), default=0.0))}" for kind, values in series.items())
    drawing = Drawing(name, title, f"Lines over {len(starts)} intervals: {words}. The table below holds each interval.")
    frame = Frame(drawing, ceiling(max(found, default=0.0) * 1_000) / 1_000, len(starts))
    frame.grid(_ms)
    for kind, values in series.items():
        run: list[tuple[float, float]] = []
        for place, value in enumerate([*values, None]):
            if value is not None:
                run.append((frame.x(place + 0.5), frame.y(value)))
                continue
            drawing.curve(run, f"curve {kind}")
            if len(run) == 1:
                drawing.add("circle", cx=run[0][0], cy=run[0][1], r=2.5, class_=f"dot {kind}")
            run = []
    _times(frame, starts)
    return drawing.markup()


def histogram(name: str, title: str, counts: Sequence[int], thresholds: Mapping[str, float]) -> Markup:
    """How often scores fell into equal bins from 0 to 1, and where the thresholds lie (by their names); bars change at the lowest."""
    told = " and ".join(f"the {what} is {value:g}" for what, value in thresholds.items())
    words, lowest = f"{sum(counts):,} scores in {len(counts)} bins from 0 to 1; {told}.", min(thresholds.values())
    drawing = Drawing(name, title, words, width=480, height=160)
    frame = Frame(drawing, ceiling(max(counts, default=0)), len(counts))
    frame.grid(lambda value: f"{value:,.0f}" if value == round(value) else f"{value:,.1f}")
    for place, count in enumerate(counts):
        if count:
            side = "over" if (place + 1) / len(counts) > lowest else "under"
            top = frame.y(count)
            drawing.add("rect", x=frame.x(place) + 1, y=top, width=frame.step - 2, height=max(1.0, frame.base - top), class_=f"bar {side}")
    for what, value in thresholds.items():
        at = frame.x(value * len(counts))
        drawing.line((at, TOP - 4), (at, frame.base), "threshold answers" if what.endswith("answers") else "threshold")
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        drawing.text(frame.x(share * len(counts)), drawing.height - 8, f"{share:g}", anchor="middle")
    return drawing.markup()


def score_bar(name: str, title: str, value: float, threshold: float) -> Markup:
    """One score against its threshold on a scale from 0 to 1."""
    side = "reaches" if value >= threshold else "stays below"
    drawing = Drawing(name, title, f"The score {value:.3f} {side} the threshold {threshold:g}.", width=240, height=26)
    width = drawing.width - 4.0
    drawing.add("rect", x=2, y=9, width=width, height=8, rx=4, class_="track")
    drawing.add("rect", x=2, y=9, width=max(2.0, width * value), height=8, rx=4, class_="bar over" if value >= threshold else "bar under")
    at = 2 + width * threshold
    drawing.line((at, 3), (at, 23), "threshold")
    return drawing.markup()


def share_bar(share: float, kind: str) -> Markup:
    """A share as a short bar; only an ornament beside the number, so that a screen reader passes over it."""
    drawing = Drawing("", "", "", width=80, height=8)
    drawing.add("rect", x=0, y=1, width=80, height=6, rx=3, class_="track")
    if share > 0:
        drawing.add("rect", x=0, y=1, width=max(2.0, 80 * min(1.0, share)), height=6, rx=3, class_=f"bar {kind}")
    inside = Markup("").join(drawing.parts)
    return Markup('<svg class="share" viewBox="0 0 80 8" aria-hidden="true" focusable="false">{}</svg>').format(inside)


def waterfall(name: str, title: str, spans: Sequence[tuple[str, float, float]]) -> Markup:
    """What took how long, one below the other: (what, start, length) in seconds."""
    whole = max((start + length for _, start, length in spans), default=0.0) or 1.0
    words = "; ".join(f"{what} from {_ms(start)} for {_ms(length)}" for what, start, length in spans)
    drawing = Drawing(name, title, words or "Nothing was timed.", height=14 + 26 * max(1, len(spans)))
    left, room = 140, drawing.width - 140 - 70
    for row, (what, start, length) in enumerate(spans):
        y = 8 + 26 * row
        drawing.text(0, y + 13, what, class_="label")
        drawing.add("rect", x=left, y=y + 3, width=room, height=12, rx=3, class_="track")
        x, width = left + room * start / whole, max(2.0, room * length / whole)
        drawing.add("rect", x=x, y=y + 3, width=width, height=12, rx=3, class_="bar span")
        drawing.text(drawing.width, y + 13, _ms(length), anchor="end")
    return drawing.markup()


def ceiling(value: float) -> float:
    """A round number at or above a value: 1, 2, 4, 5 or 10 times a power of ten, at least 1."""
    if value <= 1:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 5, 10) if step * power >= value)


def _times(frame: Frame, starts: Sequence[float]) -> None:
    """A few moments below the plot."""
    if not starts:
        return
    far = starts[-1] - starts[0] > 36 * 3_600
    for place in sorted({0, len(starts) // 4, len(starts) // 2, 3 * len(starts) // 4}):
        when = datetime.fromtimestamp(starts[place], UTC)
        frame.drawing.text(frame.x(place), frame.drawing.height - 8, when.strftime("%d %b" if far else "%H:%M"))


def _ms(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1_000:.3g} ms"
