"""The prose of a policy: which section is which, and what its labels define."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from guardrail.policy.criteria import criteria
from guardrail.policy.findings import Report
from guardrail.policy.outline import Heading, Line, Section, plain, sections
from guardrail.types import Criterion, Label

OVERVIEW, TERMS, LANGUAGE, LABELS = "Overview", "Definition of Terms", "Interpretation of Language", "Definition of Labels"
SECTIONS = (OVERVIEW, TERMS, LANGUAGE, LABELS)

_NAMES = {
    "overview": OVERVIEW,
    "definition of terms": TERMS,
    "definitions of terms": TERMS,
    "definitions": TERMS,
    "terms": TERMS,
    "interpretation of language": LANGUAGE,
    "definition of labels": LABELS,
    "definition of label": LABELS,
    "definitions of labels": LABELS,
    "labels": LABELS,
}
_INCLUDES = frozenset({"includes", "include", "included", "inclusions", "include criteria", "inclusion criteria"})
_EXCLUDES = frozenset({"excludes", "exclude", "excluded", "exclusions", "exclude criteria", "exclusion criteria"})
_CODED = re.compile(r"\(([A-Za-z0-9][\w.-]{0,15})\)\s*[:–—-]?\s*(.*)")
_BARE_CODE = re.compile(r"([A-Z][A-Z0-9_-]{0,15})\s*:\s*(\S.*)")
_TITLE = re.compile(r"(policy|criteria)\b.*")
_BOLD_LINE = re.compile(r"(?:\*\*|__)\s*(includes?|excludes?)\s*:?\s*(?:\*\*|__)\s*:?", re.IGNORECASE)


@dataclass(slots=True)
class _LabelDraft:
    code: str
    name: str
    line: int
    includes: list[Criterion] = field(default_factory=list)
    excludes: list[Criterion] = field(default_factory=list)


@dataclass(slots=True)
class Prose:
    """What the prose says. `places` maps each section found, and `Policy` for the top heading, to its line."""

    overview: str = ""
    interpretation: str = ""
    terms: tuple[Criterion, ...] = ()
    labels: tuple[Label, ...] = ()
    unknown: list[Heading] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)


def read(lines: Iterable[Line], report: Report) -> Prose:
    """Sort the sections of a policy. A known section given twice is reported (P017); an unknown one is kept aside for lint."""
    reader = _Reader(report)
    for section in sections(_with_bold_headings(lines)):
        reader.take(section)
    prose = reader.prose
    prose.labels = tuple(Label(draft.code, draft.name, tuple(draft.includes), tuple(draft.excludes), draft.line) for draft in reader.labels)
    return prose


def _with_bold_headings(lines: Iterable[Line]) -> Iterable[Line]:
    """Some policies write `**Includes**:` on a line of its own where others write `#### Includes`."""
    for line in lines:
        match = None if line.fence else _BOLD_LINE.fullmatch(line.text)
        yield Line(line.number, f"#### {match[1]}") if match else line


class _Reader:
    """Walks the sections in order, remembering which known section and which label it stands in."""

    def __init__(self, report: Report) -> None:
        self.prose = Prose()
        self.labels: list[_LabelDraft] = []
        self._report = report
        self._current = ""

    def take(self, section: Section) -> None:
        head = section.heading
        title = plain(head.title)
        if title in _INCLUDES or title in _EXCLUDES:
            self._criteria(section, included=title in _INCLUDES)
        elif title in _NAMES:
            self._current = _NAMES[title]
            self._place(self._current, head)
            self._fill(section)
        elif label := self._label(head):
            self._current = LABELS
            self.labels.append(label)
        elif head.level == 1 and _TITLE.fullmatch(title):
            self._current = ""
            self._place("Policy", head)
        elif head.level > 2 and self._current in {OVERVIEW, LANGUAGE, TERMS}:
            self._fill(section)
        elif head.level:
            self._current = ""
            self.prose.unknown.append(head)

    def _place(self, name: str, head: Heading) -> None:
        if name in self.prose.places:
            self._report.add(head.line, "P017", f"`{name}` is given again; it first stands on line {self.prose.places[name]}")
        else:
            self.prose.places[name] = head.line

    def _fill(self, section: Section) -> None:
        prose = self.prose
        if self._current == OVERVIEW:
            prose.overview = f"{prose.overview}\n{section.text}".strip()
        elif self._current == LANGUAGE:
            prose.interpretation = f"{prose.interpretation}\n{section.text}".strip()
        elif self._current == TERMS:
            prose.terms += criteria(section.lines)

    def _label(self, head: Heading) -> _LabelDraft | None:
        """The label a heading starts: with a code in parentheses anywhere, in any other form only under Definition of Labels."""
        title = head.title.replace("*", "").strip().rstrip(":").strip()
        coded = _CODED.fullmatch(title)
        if coded and (self._current == LABELS or coded[1].isupper()):
            return _LabelDraft(coded[1], coded[2].strip(), head.line)
        if self._current != LABELS or head.level < 3:
            return None
        bare = _BARE_CODE.fullmatch(title)
        return _LabelDraft(bare[1], bare[2], head.line) if bare else _LabelDraft("", title, head.line)

    def _criteria(self, section: Section, *, included: bool) -> None:
        if not self.labels:
            self.labels.append(_LabelDraft("", "", section.heading.line))
        label = self.labels[-1]
        (label.includes if included else label.excludes).extend(criteria(section.lines))
