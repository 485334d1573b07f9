"""A policy file becomes a `Policy`, or a list of findings; nothing else.

What reaches a model is the prose alone: the text between the front matter and `## Tests` or `## Changes`, with line ends unified
and trailing whitespace removed. The digest is over exactly those bytes, and over
`judge_with` where it is set.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from guardrail.errors import PolicyError
from guardrail.policy import appendix, frontmatter, prose
from guardrail.policy.criteria import criteria
from guardrail.policy.findings import Report
from guardrail.policy.frontmatter import FrontMatter
from guardrail.policy.nodes import Block, encodable
from guardrail.policy.outline import Line, number, scan
from guardrail.types import Change, Criterion, Label, Policy, PolicyTest, Stage

MAX_CHARS = 262_144
MAX_PROSE_CHARS = 32_768  # about 8K tokens: more does not fit a CoPE window, and ad-hoc criteria come from requests
_MARK = "---"


@dataclass(frozen=True, slots=True)
class _Parts:
    """A document's prose and appendix, read but not yet joined with its front matter."""

    body: str
    prose: prose.Prose
    tests: tuple[PolicyTest, ...]
    changes: tuple[Change, ...]
    places: dict[str, int]
    lines: tuple[Line, ...]


def parse(text: str, path: str = "<text>") -> Policy:
    """A policy from the text of its file. Raises PolicyError with every finding as `path:line: code message`."""
    report = Report(path)
    _check_size(text, MAX_CHARS, report)
    lines = number(text)
    end = _front_matter_end(lines, report)
    report.refuse()
    front, places = frontmatter.read(Block("\n".join(lines[1:end]), 2), report)
    parts = _read(lines[end + 1 :], end + 2, report)
    labels = _labels(front, parts.prose.labels, places, report)
    _check_tests(parts.tests, labels, report)
    report.refuse()
    return _policy(front, replace(parts, places={**places, **parts.places}), labels, path)


def parse_prose(text: str, *, id: str = "ad_hoc", title: str = "", threshold: float = 0.5) -> Policy:  # noqa: A002
    """A policy from criteria alone, as a request may carry them: CoPE-format prose or plain sentences.

    Where no label is defined, the list items (or the whole text) become the Includes criteria of one label.
    Raises PolicyError when the text is empty, too large, or brings front matter, and ValueError on a malformed id or threshold.
    """
    if not frontmatter.ID.fullmatch(id) or not 0.0 < threshold <= 1.0:
        raise ValueError(f"an ad-hoc policy needs an id like `ad_hoc` and a threshold over 0 and up to 1, not {id!r} and {threshold!r}")
    report = Report(f"<{id}>")
    _check_size(text, MAX_PROSE_CHARS, report)
    lines = number(text)
    if lines[0] == _MARK and _MARK in lines[1:]:
        report.add(1, "P022", "criteria text takes no front matter")
    report.refuse()
    parts = _read(lines, 1, report, strict=False)
    if not parts.body:
        report.add(0, "P021", "the criteria are empty")
    report.refuse()
    front = FrontMatter(id, "0.0.0", title or id, id.upper()[:16], threshold, frozenset(Stage), "und")
    defined = [label for label in parts.prose.labels if label.includes]
    labels = tuple(defined) or (Label("", front.title, _loose_criteria(parts), (), 1),)
    named = tuple(label if label.code else replace(label, code=front.label) for label in labels)
    return _policy(replace(front, label=named[0].code), parts, named, report.path)


def read(path: Path) -> Policy:
    """A policy from a file. Raises PolicyError, also where the file cannot be read as UTF-8 text."""
    return parse(read_text(path), str(path))


def read_text(path: Path) -> str:
    """The text of a policy file. Raises PolicyError (P001) where it cannot be read."""
    report = Report(str(path))
    try:
        with path.open("rb") as file:
            raw = file.read(4 * MAX_CHARS + 1)
        text = raw.decode("utf-8")
    except OSError as error:
        report.add(0, "P001", f"the file cannot be read: {error.strerror}")
    except UnicodeDecodeError as error:
        report.add(raw.count(b"\n", 0, error.start) + 1, "P001", "the file is not UTF-8 text (or is larger than 1 MiB)")
    else:
        return text
    raise PolicyError(report.findings)


def front_matter(text: str) -> Block:
    """The front matter of the text of a policy file, without the lines around it."""
    lines = number(text)
    return Block("\n".join(lines[1 : lines.index(_MARK, 1)]), 2)


def digest(body: str, judge_with: str = "nothing") -> str:
    """`sha256:` and the hex digest of the body's UTF-8 bytes, and of what it is judged with unless that is nothing."""
    found = hashlib.sha256(body.encode())
    if judge_with != "nothing":  # of two digests, which no text spells: no other body has the same
        found = hashlib.sha256(found.digest() + hashlib.sha256(f"judge_with: {judge_with}".encode()).digest())
    return f"sha256:{found.hexdigest()}"


def _check_size(text: str, limit: int, report: Report) -> None:
    if len(text) > limit:
        report.add(0, "P002", f"the text has {len(text):,} characters; the limit is {limit:,}")
    elif not encodable(text):
        report.add(0, "P002", "the text holds lone surrogates, which UTF-8 cannot carry")
    report.refuse()


def _front_matter_end(lines: list[str], report: Report) -> int:
    """Index of the line that closes the front matter; 0 where there is none, which is reported."""
    if lines[0] != _MARK:
        report.add(1, "P003", "the file does not start with `---` and its front matter")
        return 0
    for index, line in enumerate(lines[1:], start=1):
        if line == _MARK:
            return index
    report.add(1, "P004", "the front matter is never closed with `---`")
    return 0


def _read(texts: list[str], first_line: int, report: Report, *, strict: bool = True) -> _Parts:
    """Read prose and appendix; `strict` refuses a fence that is never closed, since what follows cannot be told apart."""
    lines, unclosed = scan(texts, first_line)
    if unclosed is not None and strict:
        report.add(unclosed, "P014", "the code fence that opens here is never closed")
        report.refuse()
    cut = next((index for index, line in enumerate(lines) if appendix.starts(line)), len(lines))
    own, rest = lines[:cut], lines[cut:]
    written = [index for index, line in enumerate(own) if line.text]
    own = own[written[0] : written[-1] + 1] if written else []
    body = "\n".join(line.text for line in own)
    said = prose.read(own, report)
    tests, changes, places = appendix.read(rest, report)
    places = {**said.places, **places, "body": own[0].number if own else first_line}
    return _Parts(body, said, tests, changes, places, tuple(own))


def _labels(front: FrontMatter, found: tuple[Label, ...], places: dict[str, int], report: Report) -> tuple[Label, ...]:
    """The labels with their codes settled, checked against each other and against the front matter."""
    code = front.label or front.id.upper()[:16]
    labels = tuple(label if label.code else replace(label, code=code, name=label.name or front.title) for label in found)
    if not labels:
        report.add(0, "P010", "no label is defined")
    seen: dict[str, int] = {}
    for label in labels:
        if not label.includes:
            report.add(label.line, "P011", f"label {label.code} has no Includes criteria")
        if label.code in seen:
            report.add(label.line, "P012", f"label {label.code} is already defined on line {seen[label.code]}")
        seen.setdefault(label.code, label.line)
    if labels and front.label and front.label not in seen:
        report.add(places.get("label", 1), "P013", f"`label: {front.label}` is not defined in the text, which defines {', '.join(seen)}")
    return labels


def _check_tests(tests: Sequence[PolicyTest], labels: Sequence[Label], report: Report) -> None:
    """What a case says decides has to be there: a criterion that was renamed would be asked about in vain."""
    names = [each.name for label in labels for each in (*label.includes, *label.excludes)]
    for test in tests:
        if test.criterion and test.criterion not in names:
            named = f"`criterion: {test.criterion}` is no criterion of this policy"
            report.add(test.line, "P024", f"{named}: write a name that stands in bold under Includes or Excludes")


def _loose_criteria(parts: _Parts) -> tuple[Criterion, ...]:
    found = criteria(line for line in parts.lines if not line.text.startswith("#"))
    return found or (Criterion("", parts.body, 1),)


def _policy(front: FrontMatter, parts: _Parts, labels: tuple[Label, ...], path: str) -> Policy:
    said = parts.prose
    return Policy(
        id=front.id,
        version=front.version,
        title=front.title,
        label_code=front.label or labels[0].code,
        threshold=front.threshold,
        applies_to=front.applies_to,
        language=front.language,
        overview=said.overview,
        terms=said.terms,
        interpretation=said.interpretation,
        labels=labels,
        body=parts.body,
        digest=digest(parts.body, front.judge_with),
        judge_with=front.judge_with,
        output_threshold=front.output_threshold,
        tests=parts.tests,
        changes=parts.changes,
        path=path,
        lines=MappingProxyType(dict(parts.places)),
    )
