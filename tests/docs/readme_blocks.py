"""README.md as data: its fenced blocks and the comments above them that say how each is checked.

`<!-- set-up: run -->`, `<!-- set-up: test -->`   the two set-up lines, which `.ci/run` runs and nothing else does
`<!-- exit: N -->`        a bash or yaml block whose command ends with this status (otherwise 0)
`<!-- file: NAME -->`     the block is a file of this name in the folder where the other blocks run
`<!-- output -->`         a text block: its lines come in this order in what the block above it prints; `…` stands for anything
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
COMMENT = re.compile(r"<!--\s*([a-z-]+)(?::\s*(.*?))?\s*-->")
MARKERS = {"set-up", "exit", "file", "output"}


@dataclass(frozen=True)
class Block:
    """One fenced block. `line` is that of its first fence, `output` what the text block below it says it prints."""

    language: str
    text: str
    line: int
    markers: dict[str, str] = field(default_factory=dict)
    output: str = ""

    @property
    def exit(self) -> int:
        return int(self.markers.get("exit", "0"))

    def __str__(self) -> str:
        return f"line-{self.line}-{self.language}"


def parse(text: str) -> list[Block]:
    """The blocks in order. Raises ValueError for a marker above no block, and for a comment above a block that is no marker."""
    found: list[Block] = []
    markers: dict[str, str] = {}
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        if comment := COMMENT.fullmatch(line.strip()):
            markers[comment[1]] = comment[2] or ""
        elif fence := re.fullmatch(r"(`{3,})(\w*)\s*", line):
            body: list[str] = []
            for _, inner in lines:
                if inner.strip() == fence[1]:
                    break
                body.append(inner)
            else:
                raise ValueError(f"line {number}: the block is not closed")
            if unknown := set(markers) - MARKERS:
                raise ValueError(f"line {number}: {', '.join(unknown)} is no marker; there are {', '.join(sorted(MARKERS))}")
            block = Block(fence[2], "\n".join(body) + "\n", number, markers)
            markers = {}
            if "output" in block.markers:
                if not found:
                    raise ValueError(f"line {number}: there is no block above that could print this")
                last = found[-1]
                found[-1] = Block(last.language, last.text, last.line, last.markers, block.text)
            found.append(block)
        elif line.strip() and MARKERS & set(markers):
            raise ValueError(f"line {number}: the marker above belongs to no block")
        elif line.strip():
            markers = {}  # an ordinary comment
    if MARKERS & set(markers):
        raise ValueError("the last marker belongs to no block")
    return found


def prints(expected: str, printed: str) -> bool:
    """Whether the expected lines are among the printed ones, in order, runs of spaces and `…` aside."""
    lines = iter([" ".join(line.split()) for line in printed.splitlines()])
    for line in expected.splitlines():
        pattern = ".*".join(re.escape(" ".join(piece.split(" "))) for piece in " ".join(line.split()).split("…"))
        if line.strip() and not any(re.fullmatch(pattern, seen) for seen in lines):
            return False
    return True
