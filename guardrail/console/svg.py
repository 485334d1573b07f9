"""Draws SVG: elements as text, everything in them escaped. Looks are the style sheet's, so that no inline style is needed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

Value = str | float | int


def element(name: str, *children: Markup | str, **attributes: Value | None) -> Markup:
    """One element. An attribute's `_` stands for `-` (and `class_` for `class`); one that is None is left out."""
    written = Markup("").join(
        Markup(' {}="{}"').format(Markup("class") if key == "class_" else key.replace("_", "-"), figure(value))
        for key, value in attributes.items()
        if value is not None
    )
    if not children:
        return Markup("<{}{}/>").format(name, written)
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, Markup("").join(escape(child) for child in children))


def figure(value: Value) -> str:
    """A coordinate with at most two decimals; text as it is."""
    if isinstance(value, str):
        return value
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture `width` by `height`, scaled to its place. `title` and `description` are what a screen reader says of it."""

    name: str
    title: str
    description: str
    width: int = 560
    height: int = 200
    parts: list[Markup] = field(default_factory=list)

    def add(self, name: str, *children: Markup | str, **attributes: Value | None) -> None:
        """Draw one more element on top."""
        self.parts.append(element(name, *children, **attributes))

    def text(self, x: float, y: float, words: str, *, class_: str = "tick", anchor: str = "start") -> None:
        """Write at a place; `anchor`: start, middle, end."""
        self.add("text", words, x=x, y=y, class_=class_, text_anchor=anchor)

    def line(self, start: tuple[float, float], end: tuple[float, float], class_: str) -> None:
        """A straight line."""
        self.add("line", x1=start[0], y1=start[1], x2=end[0], y2=end[1], class_=class_)

    def curve(self, points: Sequence[tuple[float, float]], class_: str) -> None:
        """A line through points, none for fewer than two of them."""
        if len(points) > 1:
            self.add("polyline", points=" ".join(f"{figure(x)},{figure(y)}" for x, y in points), class_=class_)

    def markup(self) -> Markup:
        """The whole picture."""
        head: Iterable[Markup] = (
            element("title", self.title, id=f"{self.name}-title"),
            element("desc", self.description, id=f"{self.name}-desc"),
        )
        return element(
            "svg",
            *head,
            *self.parts,
            viewBox=f"0 0 {self.width} {self.height}",
            class_="plot",
            role="img",
            aria_labelledby=f"{self.name}-title {self.name}-desc",
        )
