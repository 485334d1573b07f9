"""Lines of a Markdown document, cut at its headings. Headings inside code fences are text."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(\S.*)?)?")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a document: its number from 1, its text, and the line on which its code fence opened (0: in no fence)."""

    number: int
    text: str
    fence: int = 0


@dataclass(frozen=True, slots=True)
class Heading:
    """A `#` heading; `level` 0 stands for the text before the first one."""

    level: int
    title: str
    line: int


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and the lines up to the next heading of any level."""

    heading: Heading
    lines: tuple[Line, ...]

    @property
    def text(self) -> str:
        """The lines joined, without blank lines at either end."""
        return "\n".join(line.text for line in self.lines).strip()


def number(text: str) -> list[str]:
    """The lines of a text without its byte order mark, line ends of any kind, or trailing whitespace."""
    unified = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return [line.rstrip() for line in unified.split("\n")]


def scan(texts: Sequence[str], first_line: int) -> tuple[list[Line], int | None]:
    """Lines with fences marked, and the line of the fence that is never closed, if any."""
    lines: list[Line] = []
    fence, opened = "", 0
    for offset, text in enumerate(texts):
        match = _FENCE.fullmatch(text)
        mark = match[1] if match else ""
        here = first_line + offset
        if fence:
            lines.append(Line(here, text, opened))
            if match and mark[0] == fence[0] and len(mark) >= len(fence) and not match[2].strip():
                fence = ""
        elif match and not (mark[0] == "`" and "`" in match[2]):
            fence, opened = mark, here
            lines.append(Line(here, text, opened))
        else:
            lines.append(Line(here, text))
    return lines, opened if fence else None


def heading(line: Line) -> Heading | None:
    """The heading a line is, if it is one; closing `#` marks are not part of its title."""
    match = None if line.fence else _HEADING.fullmatch(line.text)
    if match is None:
        return None
    title = (match[2] or "").rstrip()
    bare = title.rstrip("#")
    return Heading(len(match[1]), bare.rstrip() if bare != title and (not bare or bare[-1].isspace()) else title, line.number)


def sections(lines: Iterable[Line]) -> list[Section]:
    """The document as a flat list of sections, the first with a heading of level 0."""
    found: list[tuple[Heading, list[Line]]] = [(Heading(0, "", 0), [])]
    for line in lines:
        head = heading(line)
        if head is None:
            found[-1][1].append(line)
        else:
            found.append((head, []))
    return [Section(head, tuple(inner)) for head, inner in found]


def plain(title: str) -> str:
    """A heading's title for comparison: no emphasis, no trailing colon, single spaces, case folded."""
    return " ".join(title.replace("*", " ").replace("_", " ").split()).rstrip(": ").casefold()
