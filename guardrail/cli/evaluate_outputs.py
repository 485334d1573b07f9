"""What `guardrail evaluate run` writes: reports into the run's folder, thresholds into policies' files."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from guardrail.errors import GuardrailError
from guardrail.evaluation.bells import leaderboard, write_prompts
from guardrail.evaluation.crossfit import proposed
from guardrail.evaluation.evaluation_page import page
from guardrail.evaluation.evaluation_report import markdown, results
from guardrail.evaluation.predictions import Key, Prediction
from guardrail.evaluation.summary import Summary
from guardrail.evaluation.thresholds import propose
from guardrail.policy.document import read_text
from guardrail.policy.writer import with_threshold
from guardrail.ranking import curve
from guardrail.types import Policy, Stage

OF = {Stage.INPUT: "for prompts", Stage.OUTPUT: "for answers"}


@dataclass(frozen=True, slots=True)
class Extras:
    """What is written on request alone."""

    prompts: bool
    text: bool


def write_reports(folder: Path, summary: Summary, found: Mapping[Key, Prediction], extras: Extras) -> None:
    """Write `report.md`, `report.html`, `results.json` and `bells-o-TASK.tsv`, and on request `bells-o/` with a file for each text."""
    _write(folder / "report.md", markdown(summary))
    _write(folder / "report.html", page(summary, text=extras.text))
    _write(folder / "results.json", json.dumps(results(summary), ensure_ascii=False, indent=1) + "\n")
    for task, table in leaderboard(summary, found).items():
        _write(folder / f"bells-o-{task}.tsv", table)
    if extras.prompts:
        write_prompts(folder / "bells-o", summary, found, text=extras.text)


def check_writable(wanted: Sequence[str], target: str) -> None:
    """Raises GuardrailError before anything is judged: for an unknown target, or when policies were not named by their files."""
    propose(curve([0.0, 1.0], [0, 1]), target)
    if not wanted or not all(name.endswith(".md") or "/" in name for name in wanted):
        raise GuardrailError("--write-thresholds changes files: name each policy by its file, as in --policy policies/violence.md")


def write_thresholds(summary: Summary, policies: Sequence[Policy], target: str) -> Iterator[str]:
    """Put what a target asks for into the policies' front matter, of prompts and of answers as there are some, and say so one by one."""
    for policy, stage in ((each, stage) for each in policies for stage in _stages(summary, each)):
        pooled, now, what = summary.pooled.get((policy.id, stage)), policy.threshold_at(stage), OF[stage]
        found = proposed(pooled, target) if pooled is not None else None
        if found is None:
            yield f"{policy.path}: left at {now:g} {what}: no threshold reaches {target} on these texts"
            continue
        rewrite_threshold(Path(policy.path), found.here.threshold, stage)
        told = found.told
        elsewhere = (
            f"precision {told.precision:.3f}, recall {told.recall:.3f}, FPR {told.fpr:.3f}" if told else "too few units to tell more"
        )
        yield f"{policy.path}: threshold {now:g} -> {found.here.threshold:g} {what} ({target}: {elsewhere})"


def _stages(summary: Summary, policy: Policy) -> list[Stage]:
    """Of which there are texts; all where there is none, so that it is told."""
    return [stage for stage in Stage if (policy.id, stage) in summary.pooled] or list(Stage)


def rewrite_threshold(path: Path, threshold: float, stage: Stage) -> None:
    """Put a stage's threshold into a policy file's front matter; every other byte stays."""
    _write(path, with_threshold(read_text(path), threshold, stage))


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
