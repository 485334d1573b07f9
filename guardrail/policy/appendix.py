"""What stands after the prose and never reaches a model: the policy's own tests and its history."""

import itertools
import re
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Literal

import yaml

from guardrail.policy.criteria import items
from guardrail.policy.findings import Report
from guardrail.policy.frontmatter import VERSION
from guardrail.policy.nodes import Block, compose, entries, scalar
from guardrail.policy.outline import Line, Section, heading, plain, sections
from guardrail.types import Change, PolicyTest

TESTS, CHANGES = "Tests", "Changes"
_NAMES = {"tests": TESTS, "test cases": TESTS, "changes": CHANGES, "changelog": CHANGES}
_CHANGE = re.compile(r"\**(?P<version>\d[^\s*]*)\**\s*\((?P<date>\d{4}-\d{2}-\d{2})\)\**\s*[:–—-]?\s*(?P<text>\S.*)")


def starts(line: Line) -> bool:
    """True for the heading that ends the prose."""
    head = heading(line)
    return head is not None and 0 < head.level <= 2 and plain(head.title) in _NAMES


def read(lines: Sequence[Line], report: Report) -> tuple[tuple[PolicyTest, ...], tuple[Change, ...], dict[str, int]]:
    """Tests, changes, and the line of each section. Anything else after the prose is reported (P018)."""
    tests: tuple[PolicyTest, ...] = ()
    changes: tuple[Change, ...] = ()
    places: dict[str, int] = {}
    for section in sections(lines)[1:]:
        head = section.heading
        name = _NAMES.get(plain(head.title)) if head.level <= 2 else None
        if name is None:
            report.add(head.line, "P018", f"`{head.title}` stands after the prose, where no model reads it")
        elif name in places:
            report.add(head.line, "P017", f"`{name}` is given again; it first stands on line {places[name]}")
        else:
            places[name] = head.line
            if name == TESTS:
                tests = tuple(_tests(section, report))
            else:
                changes = tuple(_changes(section, report))
    return tests, changes, places


def _tests(section: Section, report: Report) -> Iterator[PolicyTest]:
    blocks = list(_fenced(section.lines))
    if not blocks and section.text:
        report.add(section.heading.line, "P015", "the cases must stand in a ```yaml block")
    for block in blocks:
        node = compose(block, report)
        if node is None:
            continue
        if not isinstance(node, yaml.SequenceNode):
            report.add(block.line(node), "P015", "expected a list of cases, each `- text:`, `expect:`, `why:`")
            continue
        for item in node.value:
            yield from _case(item, block, report)


def _fenced(lines: Sequence[Line]) -> Iterator[Block]:
    for opened, group in itertools.groupby(lines, key=lambda line: line.fence):
        if opened:
            inner = [line.text for line in group][1:-1]
            yield Block("\n".join(inner), opened + 1)


def _case(node: yaml.Node, block: Block, report: Report) -> Iterator[PolicyTest]:
    before = len(report.findings)
    found = entries(node, block, report, allowed=("text", "expect", "why", "criterion"))
    text, expect = scalar(found.get("text")), scalar(found.get("expect"))
    if len(report.findings) > before:
        return
    if text is None:
        report.add(block.line(found.get("text", node)), "P015", "a case needs `text:` with the text to judge")
    elif expect not in {"0", "1"}:
        report.add(block.line(found.get("expect", node)), "P015", "a case needs `expect: 1` (violates) or `expect: 0`")
    else:
        expected: Literal[0, 1] = 1 if expect == "1" else 0
        why, criterion = (scalar(found.get(key)) or "" for key in ("why", "criterion"))
        yield PolicyTest(text, expected, why, block.line(node), criterion)


def _changes(section: Section, report: Report) -> Iterator[Change]:
    for line, text in items(section.lines):
        match = _CHANGE.fullmatch(text)
        if match and VERSION.fullmatch(match["version"]) and _is_date(match["date"]):
            yield Change(match["version"], match["date"], match["text"], line)
        else:
            report.add(line, "P016", "expected `- 1.0.0 (2026-01-31): What changed.`")


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
