"""A policy variant written out as CoPE-format text, in the spellings that such policies come in: headings and bullets differ."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from guardrail.engine.embedded.model import EXCLUDE, INCLUDE, LABEL, TERM
from guardrail.engine.embedded.statements import Statement
from guardrail.training.variants import Variant


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a policy is laid out. `label` takes {code} and {name}, `criterion` {name} and {text}; `sections` adds the empty ones too."""

    top: str = "# Policy"
    colon: str = ""
    label: str = "### ({code}): {name}"
    criterion: str = "- **{name}**: {text}"
    gap: str = "\n"
    interpretation: str = ""


SPELLINGS = (
    Spelling(),
    Spelling("# Criteria", label="### ({code}) {name}", criterion="- {name}: {text}"),
    Spelling(colon=":", criterion="- {name}: {text}", gap=""),
    Spelling("# Criteria", criterion="* **{name}**: {text}", interpretation="Judge the words as an ordinary reader would."),
    Spelling(label="### ({code}): {name}", criterion="- **{name}**: {text}", gap="", interpretation="In doubt, the label is 0."),
    Spelling("# Policy", colon=":", label="### ({code}) {name}", criterion="* {name}: {text}"),  # the last one is held out
)


def spelled(variant: Variant, random_: random.Random, *, held_out: bool = False) -> str:
    """The variant as policy text. A variant of one sentence stays that sentence; `held_out` takes the spelling kept for testing."""
    said = variant.statements[0].text
    if len(variant.statements) == 1:
        return said
    return _written(variant.statements, SPELLINGS[-1] if held_out else random_.choice(SPELLINGS[:-1]), random_)


def _written(statements: Sequence[Statement], spelling: Spelling, random_: random.Random) -> str:
    title, _, overview = statements[0].text.partition(". ")
    parts = [spelling.top, _section("Overview", overview, spelling)]
    if terms := _criteria(TERM, statements, spelling):
        parts.append(_section("Definition of Terms", terms, spelling))
    if spelling.interpretation:
        parts.append(_section("Interpretation of Language", f"- {spelling.interpretation}", spelling))
    code = "".join(word[0] for word in title.split() if word[0].isalpha()).upper()[:2] or random_.choice("ABC")
    parts.append(f"## Definition of Labels{spelling.colon}")
    parts.append(spelling.label.format(code=code, name=title))
    parts.append(f"#### Includes\n{_criteria(INCLUDE, statements, spelling)}")
    if excludes := _criteria(EXCLUDE, statements, spelling):
        parts.append(f"#### Excludes\n{excludes}")
    return f"\n{spelling.gap}".join(parts)


def _section(name: str, text: str, spelling: Spelling) -> str:
    return f"## {name}{spelling.colon}\n{text}"


def _criteria(kind: int, statements: Sequence[Statement], spelling: Spelling) -> str:
    lines = []
    for statement in statements:
        if statement.kind == kind != LABEL:
            name, _, text = statement.text.partition(": ")
            lines.append(spelling.criterion.format(name=name, text=text))
    return "\n".join(lines)
