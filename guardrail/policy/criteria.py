"""List items and what they name: criteria, defined terms and their inline exceptions, in every spelling seen in public policies."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from guardrail.policy.outline import Line
from guardrail.types import Criterion

_ITEM = re.compile(r"(\s*)(?:[-*+•]|\d{1,3}[.)])\s+(\S.*)")
_BOLD_NAME = re.compile(r"(\*\*|__)(?P<name>[^*]+?)(?P<inner>:?)\s*\1\s*(?P<outer>:|[-–—](?=\s)|)\s*(?P<rest>.*)")
_PLAIN_NAME = re.compile(r"(?P<name>[^:*\"“”.?!]{2,80}):\s+(?P<rest>\S.*)")
_INLINE_EXCLUDES = re.compile(
    r"(?:\*\*|__|[*_])excludes?(?::(?:\*\*|__|[*_])|(?:\*\*|__|[*_])\s?:)|(?<=[.;)])\s+excludes?:(?=\s)", re.IGNORECASE
)
_MAX_NAME_WORDS = 10


@dataclass(slots=True)
class _Draft:
    line: int
    parts: list[str] = field(default_factory=list)


def items(lines: Iterable[Line]) -> list[tuple[int, str]]:
    """List items as (line, text); continuation lines and nested items are joined into theirs.

    A list without marks still counts where paragraphs start with a bold name. Without any item, each paragraph is one.
    """
    marked: list[_Draft] = []
    loose: list[_Draft] = []
    for draft, is_item in _drafts(lines):
        (marked if is_item else loose).append(draft)
    chosen = marked or [draft for draft in loose if not draft.parts[-1].endswith(":")]
    return [(draft.line, " ".join(draft.parts)) for draft in sorted(chosen, key=lambda draft: draft.line)]


def criteria(lines: Iterable[Line]) -> tuple[Criterion, ...]:
    """The items as criteria. An item without a name has the name ""; one that only states an exception belongs to the one before."""
    found: list[Criterion] = []
    for line, text in items(lines):
        one = criterion(text, line)
        if found and one.excludes and not one.name and not one.text:
            found[-1] = replace(found[-1], excludes=" ".join(filter(None, (found[-1].excludes, one.excludes))))
        else:
            found.append(one)
    return tuple(found)


def criterion(text: str, line: int) -> Criterion:
    """One item as a criterion: `**Name**: text`, `**Name:** text`, `**Name** - text`, `Name: text`, or text without a name."""
    name, rest = _name(" ".join(text.split()))
    body, excludes = _exception(rest)
    return Criterion(name, body, line, excludes)


def _drafts(lines: Iterable[Line]) -> Iterator[tuple[_Draft, bool]]:
    current: _Draft | None = None
    is_item, indent, gap = False, 0, False
    for line in lines:
        text = line.text.strip()
        if not text:
            gap = True
            continue
        match = None if line.fence else _ITEM.fullmatch(line.text)
        depth = len(match[1].expandtabs(4)) if match else 0
        nested = current is not None and is_item and depth > indent + 1
        if (match and not nested) or (not match and _starts_named(text, line) and not line.text[:1].isspace()):
            if current:
                yield current, is_item
            current, is_item, indent = _Draft(line.number, [match[2] if match else text]), True, depth
        elif current and (nested or not gap or (is_item and line.text[:1].isspace())):
            current.parts.append(match[2] if match else text)
        else:
            if current:
                yield current, is_item
            current, is_item = _Draft(line.number, [text]), False
        gap = False
    if current:
        yield current, is_item


def _starts_named(text: str, line: Line) -> bool:
    return not line.fence and text.startswith(("**", "__")) and _bold_name(text) is not None and not _INLINE_EXCLUDES.match(text)


def _bold_name(text: str) -> re.Match[str] | None:
    """A bold start counts as a name only before a colon, a dash or nothing: otherwise it is a term used as the first word."""
    match = _BOLD_NAME.fullmatch(text)
    return match if match and (match["inner"] or match["outer"] or not match["rest"]) else None


def _name(text: str) -> tuple[str, str]:
    if _INLINE_EXCLUDES.match(text):
        return "", text
    bold = _bold_name(text)
    if bold:
        return bold["name"].strip(), bold["rest"]
    match = _PLAIN_NAME.fullmatch(text)
    if match and len(match["name"].split()) <= _MAX_NAME_WORDS and not match["name"].casefold().startswith("content "):
        return match["name"].strip(), match["rest"]
    return "", text


def _exception(text: str) -> tuple[str, str]:
    match = _INLINE_EXCLUDES.search(text)
    if match is None:
        return text, ""
    return text[: match.start()].rstrip(), text[match.end() :].strip()
