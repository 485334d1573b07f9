"""Advice on a policy that parses: what makes readers, human or model, disagree about it.

Each check is a generator of (line, code, message); `CHECKS` lists them all and `findings.CODES` says what each code means.
"""

from collections.abc import Callable, Iterator

from guardrail.errors import Finding
from guardrail.policy import prose, wording
from guardrail.policy.findings import Report
from guardrail.policy.outline import plain, scan
from guardrail.policy.outline import sections as outline_sections
from guardrail.policy.prompt import header_lookalikes
from guardrail.types import Criterion, Label, Policy, Stage

CHARS_PER_TOKEN = 4  # English prose under the tokenizers in use; an estimate on purpose, no tokenizer is loaded for it
MAX_TOKENS = 4_000
MAX_LINES = 100
MIN_TESTS = 12
MIN_EXCLUDES = 3
MIN_WORDS = 8
USUAL = (0.05, 0.95)  # thresholds: beyond them a policy flags nearly all or nothing

Hit = tuple[int, str, str]
Checker = Callable[[Policy], Iterator[Hit]]


def lint(policy: Policy) -> tuple[Finding, ...]:
    """Every finding of every check, in line order. An empty tuple means: nothing to improve that a machine can see."""
    report = Report(policy.path)
    for check in CHECKS:
        for line, code, message in check(policy):
            report.add(line, code, message)
    return tuple(sorted(report.findings, key=lambda finding: (finding.line, finding.code)))


def structure(policy: Policy) -> Iterator[Hit]:
    """Sections, labels, headings and length of the body."""
    start = policy.lines.get("body", 1)
    if "Policy" not in policy.lines:
        yield start, "L026", "the prose does not start with `# Policy`"
    for name in prose.SECTIONS:
        if name not in policy.lines:
            yield start, "L001", f"section `## {name}` is missing"
    if len(policy.labels) > 1:
        yield policy.labels[1].line, "L002", f"the policy defines {len(policy.labels)} labels"
    for label in policy.labels:
        if len(label.excludes) < MIN_EXCLUDES:
            yield label.line, "L003", f"label {label.code} has {len(label.excludes)} Excludes criteria; {MIN_EXCLUDES} is the least"
    tokens = len(policy.body) // CHARS_PER_TOKEN
    if tokens > MAX_TOKENS:
        yield start, "L009", f"the body is about {tokens:,} tokens; {MAX_TOKENS:,} is the most"
    length = policy.body.count("\n") + 1
    if length > MAX_LINES:
        yield start, "L027", f"the body has {length} lines; {MAX_LINES} is the most"
    if not wording.STRICTNESS.search(f"{policy.overview}\n{policy.interpretation}"):
        yield policy.lines.get(prose.OVERVIEW, start), "L010", "neither Overview nor Interpretation says how strictly to read"


def headings(policy: Policy) -> Iterator[Hit]:
    """Sections a verdict cannot name, and lines a model could take for the prompt's own."""
    start = policy.lines.get("body", 1)
    lines, _ = scan(policy.body.split("\n"), start)
    report = Report(policy.path)
    for head in prose.read(lines, report).unknown:
        yield head.line, "L025", f"`{head.title}` is not a section of the format"
    for offset in header_lookalikes(policy.body):
        yield start + offset, "L022", "this line and its underline read like a header of the prompt"


def criteria(policy: Policy) -> Iterator[Hit]:
    """Each criterion alone: name, opening, length, pronouns, intent, catch-alls."""
    for label, side, one in _criteria(policy):
        shown = f"`{one.name}`" if one.name else "a criterion without a name"
        if not one.name:
            yield one.line, "L004", f"a criterion under {side} of {label.code} has no name"
        if not one.text.casefold().startswith("content "):
            yield one.line, "L024", f"{shown} does not start with `Content that`"
        if wording.PRONOUN.match(one.text):
            yield one.line, "L020", f"{shown} starts with the pronoun `{one.text.split()[0]}`"
        words = len(wording.definition(one.text).split())
        if words < MIN_WORDS:
            yield one.line, "L011", f"{shown} has only {words} words beside its examples"
        yield from _loose_wording(one, shown)
    for term in policy.terms:
        if not term.name:
            yield term.line, "L004", "a definition under Definition of Terms has no name"
        else:
            yield from _loose_wording(term, f"term `{term.name}`")


def names(policy: Policy) -> Iterator[Hit]:
    """A criterion named twice, above all when it is both included and excluded."""
    for label in policy.labels:
        seen: dict[str, str] = {}
        for side, one in _sides(label):
            key = one.name.casefold()
            if key and key in seen:
                where = "twice under " + side if seen[key] == side else "under Includes and under Excludes"
                yield one.line, "L021", f"`{one.name}` stands {where} of {label.code}"
            seen.setdefault(key, side)


def examples(policy: Policy) -> Iterator[Hit]:
    """A side of a label without any example."""
    for label in policy.labels:
        for side in ("Includes", "Excludes"):
            texts = [wording.full_text(one) for other, one in _sides(label) if other == side]
            if texts and not any(wording.EXAMPLE.search(text) for text in texts):
                yield label.line, "L008", f"{side} of {label.code} has no example"


def terms(policy: Policy) -> Iterator[Hit]:
    """Bold words are defined, and definitions are used."""
    defined = set().union(*(wording.alternatives(term.name) for term in policy.terms))
    for line, text in _sentences(policy):
        for found in wording.bold_terms(text):
            if wording.stem(found) not in defined and not _is_label_word(found):
                yield line, "L005", f"**{found}** is bold but not defined"
    for term in policy.terms:
        others = [text for line, text in _sentences(policy) if line != term.line]
        others += [one.name for _, _, one in _criteria(policy)]
        if term.name and not any(wording.uses(text, name) for name in wording.alternatives(term.name) for text in others):
            yield term.line, "L006", f"`{term.name}` is defined but never used"


def tests(policy: Policy) -> Iterator[Hit]:
    """The policy's own cases: enough, both labels, no repeats, a reason each, not copied from the policy."""
    line = policy.lines.get("Tests", 0)
    if not policy.tests:
        yield line, "L013", "the policy has no tests"
        return
    if len(policy.tests) < MIN_TESTS:
        yield line, "L014", f"{len(policy.tests)} tests; {MIN_TESTS} is the least"
    if len({case.expected for case in policy.tests}) == 1:
        yield line, "L015", f"all tests expect {policy.tests[0].expected}"
    seen: dict[str, int] = {}
    for case in policy.tests:
        key = " ".join(case.text.casefold().split())
        if key in seen:
            yield case.line, "L016", f"the same text is tested on line {seen[key]}"
        seen.setdefault(key, case.line)
        if not case.why:
            yield case.line, "L017", "the test gives no reason"
        if len(key.split()) > 2 and key in " ".join(policy.body.casefold().split()):
            yield case.line, "L028", "the text of this test stands in the policy"


def settings(policy: Policy) -> Iterator[Hit]:
    """Front matter and history."""
    if policy.version not in {change.version for change in policy.changes}:
        yield policy.lines.get("version", 0), "L018", f"version {policy.version} is not in Changes"
    for stage in Stage if policy.output_threshold is not None else (Stage.INPUT,):
        threshold, line = policy.threshold_at(stage), policy.lines.get("threshold", 0)
        if not USUAL[0] <= threshold <= USUAL[1]:
            line = policy.lines.get(f"threshold {stage.value}", line)
            yield line, "L019", f"threshold {threshold:g} lets the policy flag nearly all or nothing"
    if policy.judge_with == "prompt" and Stage.OUTPUT not in policy.applies_to:
        yield policy.lines.get("judge_with", 0), "L029", "judge_with: prompt is for answers, and the policy applies to prompts alone"


def placeholders(policy: Policy) -> Iterator[Hit]:
    """What a skeleton left to fill in."""
    if wording.PLACEHOLDER.search(policy.title):
        yield policy.lines.get("title", 0), "L023", "the title is a placeholder"
    for offset, text in enumerate(policy.body.split("\n")):
        if wording.PLACEHOLDER.search(text):
            yield policy.lines.get("body", 1) + offset, "L023", "fill in the placeholder"
    for case in policy.tests:
        if wording.PLACEHOLDER.search(f"{case.text} {case.why}"):
            yield case.line, "L023", "write the test"


CHECKS: tuple[Checker, ...] = (structure, headings, criteria, names, examples, terms, tests, settings, placeholders)


def _sides(label: Label) -> Iterator[tuple[str, Criterion]]:
    yield from (("Includes", one) for one in label.includes)
    yield from (("Excludes", one) for one in label.excludes)


def _criteria(policy: Policy) -> Iterator[tuple[Label, str, Criterion]]:
    for label in policy.labels:
        for side, one in _sides(label):
            yield label, side, one


def _loose_wording(one: Criterion, shown: str) -> Iterator[Hit]:
    text = wording.unquoted(f"{one.text} {one.excludes}")
    for pattern, rewrite in wording.INTENT:
        match = pattern.search(text)
        if match:
            yield one.line, "L007", f"{shown} asks for intent (`{match[0]}`); write what can be seen, like `{rewrite}`"
            break
    match = wording.CATCH_ALL.search(text)
    if match:
        yield one.line, "L012", f"{shown} holds the catch-all `{match[0]}`"


def _sentences(policy: Policy) -> Iterator[tuple[int, str]]:
    """The running text with its lines: names of criteria and terms, which are bold by format, are not part of it."""
    for section in outline_sections(scan(policy.body.split("\n"), policy.lines.get("body", 1))[0]):
        if plain(section.heading.title) in {"overview", "interpretation of language"}:
            yield from ((line.number, line.text) for line in section.lines)
    for one in policy.terms:
        yield one.line, f"{one.text} {one.excludes}"
    for _, _, one in _criteria(policy):
        yield one.line, f"{one.text} {one.excludes}"


def _is_label_word(text: str) -> bool:
    return plain(text) in {"includes", "excludes", "include", "exclude"}
