"""YAML in, plain values and the line of each of them out. Nothing in a document can run code or grow without bound."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from guardrail.config.codes import Code
from guardrail.errors import Finding

MAX_BYTES = 1_048_576
MAX_DEPTH = 24
MAX_VALUES = 50_000
"""Bounds of one configuration file; they also end documents whose aliases multiply."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a configuration came from: its path as the reader knows it, its folder, and the line of each key and list entry."""

    path: str = "<defaults>"
    folder: Path = field(default_factory=Path)
    lines: Mapping[tuple[str | int, ...], int] = field(default_factory=lambda: MappingProxyType({}))

    def line(self, loc: tuple[str | int, ...]) -> int:
        """The line of a value, or of the closest thing around it that is written down; 0 when there is none."""
        while loc and loc not in self.lines:
            loc = loc[:-1]
        return self.lines.get(loc, 0)

    def finding(self, loc: tuple[str | int, ...], code: Code, message: str, *, warning: bool = False) -> Finding:
        """A finding about the value at `loc`."""
        return Finding(self.path, self.line(loc), code, message, "warning" if warning else "error")


def parse(text: str, path: str) -> tuple[Any, dict[tuple[str | int, ...], int], list[Finding]]:
    """The document's value, the line of each key and list entry (by location), and what is wrong with it as YAML.

    Scalars follow YAML 1.2's core schema: `on`, `yes`, `010` and dates are text. After a duplicate key the first one counts and
    reading goes on, so that one run reports every fault; after a syntax error the value is None.
    """
    reader = _Reader(path)
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
        value = None if node is None else reader.value(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        return None, {}, [Finding(path, line, Code.NOT_YAML, f"not valid YAML: {error.problem or error.context}")]
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return None, {}, [Finding(path, line, Code.NOT_YAML, f"not valid YAML: {error.reason}")]
    return value, reader.lines, reader.findings


class _Loader(yaml.SafeLoader):
    """Composes nodes to a bounded depth and resolves plain scalars by the core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (filled below, as the parent class is)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {MAX_DEPTH} levels", problem_mark=mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


_TAG = "tag:yaml.org,2002:"
for _name, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]{0,17})", list("-+0123456789")),
    ("float", r"[-+]?([0-9]{1,18}\.[0-9]{0,24}|\.[0-9]{1,24}|[0-9]{1,18}(?=[eE]))([eE][-+]?[0-9]{1,3})?", list("-+0123456789.")),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), _first)


class _Reader:
    """Turns nodes into plain values, keeping lines and noting faults; one per document."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.lines: dict[tuple[str | int, ...], int] = {}
        self.findings: list[Finding] = []
        self._values = 0

    def value(self, node: yaml.Node, loc: tuple[str | int, ...]) -> Any:
        self._values += 1
        if self._values > MAX_VALUES or len(loc) > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"more than {MAX_VALUES} values or {MAX_DEPTH} levels", problem_mark=node.start_mark)
        if isinstance(node, yaml.MappingNode):
            return {key: self.value(child, (*loc, key)) for key, child in self._entries(node, loc)}
        if isinstance(node, yaml.SequenceNode):
            return [self._entry(child, (*loc, index)) for index, child in enumerate(node.value)]
        return self._scalar(node)

    def _entry(self, node: yaml.Node, loc: tuple[str | int, ...]) -> Any:
        self.lines[loc] = node.start_mark.line + 1
        return self.value(node, loc)

    def _entries(self, node: yaml.MappingNode, loc: tuple[str | int, ...]) -> Iterator[tuple[str, yaml.Node]]:
        seen: dict[str, int] = {}
        for key_node, child in node.value:
            line = key_node.start_mark.line + 1
            key = self._scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else key_node
            if not isinstance(key, str):
                self._fault(line, Code.NOT_YAML, "a key that is not text; put it in quotes")
            elif key == "<<":
                self._fault(line, Code.NOT_YAML, "merge keys (<<) are not used in configuration; write the keys out")
            elif key in seen:
                self._fault(line, Code.DUPLICATE_KEY, f"{key!r} stands twice; the first is on line {seen[key]}: remove one of them")
            else:
                seen[key] = self.lines[(*loc, key)] = line
                yield key, child

    def _scalar(self, node: yaml.Node) -> str | int | float | bool | None:
        text: str = node.value
        kind = node.tag.removeprefix(_TAG)
        try:
            match kind:
                case "str":
                    return text
                case "null":
                    return None
                case "bool":
                    return {"true": True, "false": False}[text.lower()]
                case "int":
                    return int(text)
                case "float":
                    return float(text)
        except (KeyError, ValueError):
            pass
        self._fault(
            node.start_mark.line + 1,
            Code.NOT_YAML,
            f"the tag {kind!r} does not fit here: configuration is plain text, numbers, true and false",
        )
        return None

    def _fault(self, line: int, code: Code, message: str) -> None:
        self.findings.append(Finding(self.path, line, code, message))
