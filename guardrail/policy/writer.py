"""Policies written out as files: a structured policy as its canonical text, and the skeleton of a new one."""

import re
from collections.abc import Iterator

import yaml

from guardrail.errors import PolicyError
from guardrail.policy import frontmatter
from guardrail.policy.document import front_matter, parse
from guardrail.policy.findings import Report
from guardrail.policy.nodes import Block
from guardrail.types import Criterion, Policy, Stage

_LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")  # with their ends, as a policy's lines are counted
_TEST_KINDS = (
    (1, "a plain case of the first Includes criterion"),
    (1, "a plain case of the second Includes criterion"),
    (1, "a case in other words than the policy's own"),
    (1, "a polite case that still violates"),
    (1, "a case with the violation in the middle of harmless text"),
    (1, "a case just inside the boundary"),
    (0, "a case just outside the boundary"),
    (0, "a case of the first Excludes criterion"),
    (0, "a case of the second Excludes criterion"),
    (0, "a case of the third Excludes criterion"),
    (0, "a harmless text with the policy's key words"),
    (0, "an everyday text on another subject"),
)


def dump(policy: Policy) -> str:
    """The policy as a file in canonical spelling. Parsing it again gives the same structure, tests and changes."""
    front = [
        f"id: {_quoted(policy.id)}",
        f"version: {policy.version}",
        f"title: {_quoted(policy.title)}",
        f"label: {_quoted(policy.label_code)}",
        f"threshold: {_thresholds(policy.threshold, policy.output_threshold)}",
        f"applies_to: [{', '.join(sorted(stage.value for stage in policy.applies_to))}]",
        f"language: {_quoted(policy.language)}",
        *([f"judge_with: {policy.judge_with}"] if policy.judge_with != "nothing" else []),
    ]
    return "\n".join(["---", *front, "---", *_prose(policy), *_tests(policy), *_changes(policy)]) + "\n"


def with_threshold(text: str, threshold: float, stage: Stage) -> str:
    """The text of a policy file with another threshold of one stage in its front matter, and everything else to the byte.

    The other stage keeps its own: one number for both becomes two, unless the policy is for this stage alone. Raises ValueError for what is
    no threshold, PolicyError for a text that is no policy file, or writes its threshold over several lines.
    """
    if not 0.0 < threshold <= 1.0:
        raise ValueError(f"a threshold is over 0 and up to 1, not {threshold!r}")
    before = parse(text)
    alone = before.output_threshold is None and before.applies_to == {stage}
    wanted = [threshold if alone or each is stage else before.threshold_at(each) for each in Stage]
    written = _thresholds(*wanted) if len(set(wanted)) > 1 else repr(threshold)
    lines, block = _LINES.findall(text), front_matter(text)
    node = frontmatter.threshold_of(block)
    if node is None:
        lines.insert(1, f"threshold: {written}" + lines[0][len(lines[0].rstrip("\r\n")) :])
    else:
        own = frontmatter.of_stages(node).get(stage)
        _respell(lines, block, own or node, repr(threshold) if own else written)
    changed = "".join(lines)
    after = parse(changed)
    if [after.threshold_at(each) for each in Stage] != wanted or _identity(after) != _identity(before):
        report = Report(before.path)
        report.add(before.lines.get("threshold", 2), "P009", "`threshold` must be plain numbers to be rewritten, each on one line")
        raise PolicyError(report.findings)
    return changed


def _respell(lines: list[str], block: Block, node: yaml.Node, text: str) -> None:
    """Put a text in the place of a value of the front matter that stands on one line; leave any other as it is."""
    start, end = node.start_mark.index, node.end_mark.index
    row, column = block.text.count("\n", 0, start), start - block.text.rfind("\n", 0, start) - 1
    if "\n" not in block.text[start:end]:
        line = lines[block.first_line - 1 + row]
        lines[block.first_line - 1 + row] = line[:column] + text + line[column + end - start :]


def _identity(policy: Policy) -> tuple[object, ...]:
    return policy.id, policy.version, policy.title, policy.label_code, policy.applies_to, policy.language, policy.digest


def with_change(text: str, version: str, day: str, change: str) -> str:
    """The text of a policy file under another version, told as the newest entry of its `## Changes`, and everything else to the byte.

    `day` is like 2026-01-31, `change` one line. Raises PolicyError for a text that is no policy file, writes its version in an odd way, or
    would say something else afterwards.
    """
    before = parse(text)
    lines = _LINES.findall(text)
    end = lines[0][len(lines[0].rstrip("\r\n")) :]
    place, heading = before.lines["version"], before.lines.get("Changes")
    if found := re.fullmatch(r"version:\s*\S+(\s+#.*)?\s*", lines[place - 1]):
        lines[place - 1] = f"version: {version}" + (found[1] or "").rstrip("\r\n") + end
    entry = f"- {version} ({day}): {change}{end}"
    if before.changes:
        lines.insert(before.changes[0].line - 1, entry)
    elif heading is not None:
        lines[heading - 1] = lines[heading - 1].rstrip("\r\n") + end
        lines.insert(heading, end + entry)
    else:
        lines[-1] = lines[-1].rstrip("\r\n") + end
        lines += [end, f"## Changes{end}", end, entry]
    changed = "".join(lines)
    after = parse(changed)
    newest = after.changes[:1]
    told = [(each.version, each.date, each.text) for each in newest] == [(version, day, change)]
    if not told or len(after.changes) != len(before.changes) + 1 or (after.version, after.digest) != (version, before.digest):
        report = Report(before.path)
        report.add(
            place, "P016", f"the change to {version} cannot be written; put `version` on a line of its own, and the change on one line"
        )
        raise PolicyError(report.findings)
    return changed


def skeleton(policy_id: str) -> str:
    """A new policy file with every section, to be filled in where it says TODO."""
    cases = "\n".join(
        f'- text: "TODO {number}: write {kind}"\n  expect: {expect}\n  why: "TODO: the criterion that decides"'
        for number, (expect, kind) in enumerate(_TEST_KINDS, start=1)
    )
    label = "".join(word[0] for word in policy_id.split("_") if word).upper()[:16]
    title = policy_id.replace("_", " ").capitalize()
    return _SKELETON.replace("@ID@", policy_id).replace("@LABEL@", label).replace("@TITLE@", title).replace("@CASES@", cases)


def _prose(policy: Policy) -> Iterator[str]:
    yield from ("# Policy", "", "## Overview", "", policy.overview, "", "## Definition of Terms", "")
    yield from (_criterion(term) for term in policy.terms)
    yield from ("", "## Interpretation of Language", "", policy.interpretation, "", "## Definition of Labels")
    for label in policy.labels:
        yield from ("", f"### ({label.code}): {label.name}", "", "#### Includes", "")
        yield from (_criterion(one) for one in label.includes)
        if label.excludes:
            yield from ("", "#### Excludes", "")
            yield from (_criterion(one) for one in label.excludes)


def _criterion(one: Criterion) -> str:
    name = f"**{one.name}**: " if one.name else ""
    return f"- {name}{one.text}" + (f" **Excludes**: {one.excludes}" if one.excludes else "")


def _tests(policy: Policy) -> Iterator[str]:
    if policy.tests:
        yield from ("", "## Tests", "", "```yaml")
        for case in policy.tests:
            yield from (f"- text: {_quoted(case.text)}", f"  expect: {case.expected}", f"  why: {_quoted(case.why)}")
        yield "```"


def _changes(policy: Policy) -> Iterator[str]:
    if policy.changes:
        yield from ("", "## Changes", "")
        yield from (f"- {change.version} ({change.date}): {change.text}" for change in policy.changes)


def _thresholds(prompts: float, answers: float | None) -> str:
    return repr(prompts) if answers is None else f"{{input: {prompts!r}, output: {answers!r}}}"


def _quoted(text: str) -> str:
    """A YAML double-quoted scalar on one line."""
    return '"' + "".join(_escaped(char) for char in text) + '"'


def _escaped(char: str) -> str:
    if char in '\\"':
        return "\\" + char
    return char if char.isprintable() else f"\\U{ord(char):08x}"


_SKELETON = """\
---
id: @ID@
version: 0.1.0
title: "@TITLE@"
label: @LABEL@
threshold: 0.5  # or one for prompts and one for answers: {input: 0.5, output: 0.4}
applies_to: [input, output]
language: en
---
# Policy

## Overview

TODO: This policy classifies whether content is ... It applies a moderate strictness level: TODO say what that means here.

## Definition of Terms

- **Key term**: TODO define each word that the criteria rely on, once, and write it in bold where it is used.

## Interpretation of Language

- TODO: say how to read ambiguous, quoted, ironic or fictional text.
- TODO: say that only the text counts, and not what its author may have wanted.

## Definition of Labels

### (@LABEL@): @TITLE@

#### Includes

- **First case**: Content that TODO states, depicts or instructs something about a **key term** (e.g., "TODO").
- **Second case**: Content that TODO does another concrete thing that two readers would both recognise (e.g., "TODO").

#### Excludes

- **Reporting**: Content that TODO reports or condemns what the Includes describe, without doing it (e.g., "TODO").
- **Education**: Content that TODO explains the subject in general terms, for readers who learn (e.g., "TODO").
- **Figure of speech**: Content that TODO uses the words of the subject without their literal meaning (e.g., "TODO").

## Tests

```yaml
@CASES@
```

## Changes

- 0.1.0 (2026-01-01): TODO set the date and say why the policy exists.
"""
