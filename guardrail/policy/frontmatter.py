"""The front matter of a policy file: who it is, and how its scores are used."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import yaml

from guardrail.policy.findings import Report
from guardrail.policy.nodes import Block, compose, entries, scalar
from guardrail.types import Stage

KEYS = ("id", "version", "title", "label", "threshold", "applies_to", "language", "judge_with")
REQUIRED = ("id", "version", "title")

ID = re.compile(r"[a-z][a-z0-9_]{1,63}")
VERSION = re.compile(r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})(-[0-9A-Za-z.-]{1,64})?(\+[0-9A-Za-z.-]{1,64})?", re.ASCII)
LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,15}")
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,4}")
_NUMBER = re.compile(r"(\d{1,3}(\.\d{0,25})?|\.\d{1,25})(e-?\d{1,3})?", re.IGNORECASE | re.ASCII)

_THRESHOLD = (
    "`threshold` must be a number over 0 and up to 1, like `0.5`, or one for prompts and one for answers, like `{input: 0.8, output: 0.4}`"
)

_SHAPES: dict[str, tuple[re.Pattern[str], str]] = {
    "id": (ID, "2 to 64 lower-case letters, digits and `_`, starting with a letter, like `hate_speech`"),
    "version": (VERSION, "three numbers, like `1.0.0`"),
    "label": (LABEL, "the label's code: up to 16 letters, digits, `_` or `-`, like `HS`"),
    "language": (LANGUAGE, "a language tag, like `en` or `pt-BR`"),
}


@dataclass(frozen=True, slots=True)
class FrontMatter:
    """The values of the front matter; an empty `label` means: the label the text defines."""

    id: str
    version: str
    title: str
    label: str
    threshold: float
    applies_to: frozenset[Stage]
    language: str
    judge_with: Literal["nothing", "prompt"] = "nothing"
    output_threshold: float | None = None


def read(block: Block, report: Report) -> tuple[FrontMatter, dict[str, int]]:
    """The values and the line of each key given. What is wrong goes to the report, and a stand-in into its place."""
    node = compose(block, report)
    found = entries(node, block, report, allowed=KEYS)
    readable = isinstance(node, yaml.MappingNode) or not report.findings
    for key in REQUIRED if readable else ():
        if key not in found:
            report.add(block.first_line - 1, "P008", f"front matter lacks `{key}`")
    reader = _Reader(found, block, report)
    threshold, output_threshold = reader.thresholds()
    values = FrontMatter(
        id=reader.text("id", ""),
        version=reader.text("version", "0.0.0"),
        title=reader.text("title", ""),
        label=reader.text("label", ""),
        threshold=threshold,
        applies_to=reader.stages(),
        language=reader.text("language", "en"),
        judge_with=reader.judge_with(),
        output_threshold=output_threshold,
    )
    places = {key: block.line(node) for key, node in found.items()}
    for stage, node in of_stages(found.get("threshold")).items():
        places[f"threshold {stage.value}"] = block.line(node)
    return values, places


def threshold_of(block: Block) -> yaml.Node | None:
    """Where a front matter says the threshold; None where it does not."""
    report = Report("")
    return entries(compose(block, report), block, report, allowed=KEYS).get("threshold")


def of_stages(threshold: yaml.Node | None) -> dict[Stage, yaml.Node]:
    """The threshold's node of each stage, where there is exactly one of each; empty for one of both."""
    pairs = threshold.value if isinstance(threshold, yaml.MappingNode) else []
    found = {scalar(key): value for key, value in pairs}
    return {stage: found[stage.value] for stage in Stage} if len(pairs) == len(Stage) and set(found) == set(Stage) else {}


class _Reader:
    """Reads one key at a time and reports what does not fit."""

    def __init__(self, found: dict[str, yaml.Node], block: Block, report: Report) -> None:
        self._found = found
        self._complain: Callable[[yaml.Node, str], None] = lambda node, text: report.add(block.line(node), "P009", text)

    def text(self, key: str, default: str) -> str:
        node = self._found.get(key)
        if node is None:
            return default
        value = scalar(node)
        pattern, shape = _SHAPES.get(key, (None, "one line of text"))
        if value is None or "\n" in value or (pattern is not None and not pattern.fullmatch(value)):
            self._complain(node, f"`{key}` must be {shape}")
            return default
        return value

    def thresholds(self) -> tuple[float, float | None]:
        """That of prompts, and that of answers where it is another one."""
        node = self._found.get("threshold")
        if node is None:
            return 0.5, None
        written = list(of_stages(node).values()) or [node]
        numbers = [_threshold(each) for each in written]
        for each, number in zip(written, numbers, strict=True):
            if number is None:
                self._complain(each, _THRESHOLD)
                return 0.5, None
        first, *rest = (number for number in numbers if number is not None)
        return first, rest[0] if rest else None

    def judge_with(self) -> Literal["nothing", "prompt"]:
        node = self._found.get("judge_with")
        value = None if node is None else scalar(node)
        if node is not None and value not in ("nothing", "prompt"):
            self._complain(node, "`judge_with` must be `prompt` (an answer is judged with what the user said) or `nothing`")
        return "prompt" if value == "prompt" else "nothing"

    def stages(self) -> frozenset[Stage]:
        node = self._found.get("applies_to")
        if node is None:
            return frozenset(Stage)
        items = node.value if isinstance(node, yaml.SequenceNode) else [node]
        words = [scalar(item) for item in items]
        known = {stage.value for stage in Stage}
        if not words or len(set(words)) != len(words) or any(word not in known for word in words):
            self._complain(node, "`applies_to` must be `[input]`, `[output]` or `[input, output]`")
            return frozenset(Stage)
        return frozenset(Stage(word) for word in words if word)


def _threshold(node: yaml.Node) -> float | None:
    """The number of a scalar that is a threshold; None for anything else."""
    value = scalar(node)
    number = float(value) if value is not None and _NUMBER.fullmatch(value) else 0.0
    return number if 0.0 < number <= 1.0 else None
