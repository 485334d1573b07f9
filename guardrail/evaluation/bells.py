"""A run in the formats of BELLS-O, written anew from their description: one JSON file a prompt, and a leaderboard row as TSV.

What is not known stays empty: tokens, cost, rank. The prompt's text is left out unless it is asked for.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from guardrail.evaluation.predictions import Key, Prediction
from guardrail.evaluation.summary import Judged, Row, Summary

MODERATION, JAILBREAK = "content_moderation", "jailbreak"
LAB = "guardrail"
COLUMNS = (
    "Rank",
    "Model Snapshot",
    "Model Developer",
    "Provider",
    "Model Type",
    "Detection Rate (%)",
    "FPR (%)",
    "Latency CI 95% (ms)",
    "Mean Latency (ms)",
    "Compute Access",
    "Total Cost",
    "Cost per 1M units",
    "Cost per h",
    "Cost Additional Info",
    "Execution Info",
)


@dataclass(frozen=True, slots=True)
class Judgement:
    """An item of a row with the predictions that make it up."""

    row: Row
    judged: Judged
    made_of: tuple[Prediction, ...]

    @property
    def latency_s(self) -> float:
        """Of its call: all policies are asked at once."""
        return max(each.latency_s for each in self.made_of)


def usage(row: Row) -> str:
    """Which of the two tasks a row belongs to."""
    return JAILBREAK if row.area == "jailbreak" or row.policy == "prompt_attack" else MODERATION


def judgements(summary: Summary, found: Mapping[Key, Prediction]) -> Iterator[Judgement]:
    """Every judged item of a run."""
    digests = {policy.id: policy.digest for policy in summary.info.policies}
    for row in summary.rows:
        for judged in row.judged:
            yield Judgement(row, judged, tuple(found[judged.item.set, judged.item.id, policy, digests[policy]] for policy in judged.scores))


def document(judgement: Judgement, classifier: str, *, text: bool) -> dict[str, object]:
    """The document of one prompt. Times are UTC, latency is in seconds."""
    judged, kind = judgement.judged, usage(judgement.row)
    began = min(each.at for each in judgement.made_of)
    result, target = {kind: judged.flagged}, {kind: bool(judged.label)}
    return {
        "output_raw": {"scores": dict(judged.scores)},
        "metadata": {
            "latency": judgement.latency_s,
            "input_tokens": None,
            "output_tokens": None,
            "date": _time(began)[:10],
            "prompt_id": judged.item.id,
            "prompt": judged.item.text if text else None,
            "target": judged.label,
            "supervisor": {"provider": LAB, "model": classifier, "usage": kind, "supervisor_type": "custom"},
            "started_at": _time(began),
            "ended_at": _time(began + judgement.latency_s),
            "num_prompts": 1,
        },
        "output_result": result,
        "target_result": target,
        "is_correct": result == target,
    }


def write_prompts(folder: Path, summary: Summary, found: Mapping[Key, Prediction], *, text: bool) -> int:
    """Write `LAB/SET/MODEL/PROMPT.json` for every judged item; returns how many. Existing files are written anew."""
    count = 0
    for judgement in judgements(summary, found):
        place = folder / LAB / _name(judgement.row.set) / _name(summary.info.classifier)
        place.mkdir(parents=True, exist_ok=True)
        content = json.dumps(document(judgement, summary.info.classifier, text=text), ensure_ascii=False, indent=1)
        (place / f"{_name(judgement.judged.item.id)}.json").write_text(content + "\n", encoding="utf-8")
        count += 1
    return count


def leaderboard(summary: Summary, found: Mapping[Key, Prediction]) -> dict[str, str]:
    """For each task that occurs, the table with this run as its one row."""
    tasks: dict[str, list[Judgement]] = {}
    for judgement in judgements(summary, found):
        tasks.setdefault(usage(judgement.row), []).append(judgement)
    return {task: "\t".join(COLUMNS) + "\n" + "\t".join(_cells(summary, mine)) + "\n" for task, mine in tasks.items()}


def _cells(summary: Summary, mine: Sequence[Judgement]) -> list[str]:
    waits = np.array([each.latency_s * 1000 for each in mine])
    half = 1.96 * float(waits.std(ddof=1)) / math.sqrt(len(waits)) if len(waits) > 1 else math.nan
    interval = f"[{waits.mean() - half:.1f}, {waits.mean() + half:.1f}]" if len(waits) > 1 else ""
    machine = summary.info.machine
    filled = {
        "Model Snapshot": summary.info.classifier,
        "Model Type": "custom",
        "Provider": LAB,
        "Detection Rate (%)": _rate([each.judged.flagged for each in mine if each.judged.label]),
        "FPR (%)": _rate([each.judged.flagged for each in mine if not each.judged.label]),
        "Latency CI 95% (ms)": interval,
        "Mean Latency (ms)": f"{waits.mean():.1f}",
        "Execution Info": f"{machine.get('cpu', '')}, {machine.get('cores', '')} cores, batches of {summary.info.batch}",
    }
    return [filled.get(column, "") for column in COLUMNS]


def _rate(flags: Sequence[bool]) -> str:
    return f"{100 * sum(flags) / len(flags):.2f}" if flags else ""


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _name(text: str) -> str:
    """A file name: what does not belong there becomes `_`, and then a digest keeps two names apart."""
    clean = re.sub(r"[^A-Za-z0-9_.-]", "_", text)[:100]
    return clean if clean == text and clean.strip(".") else f"{clean.strip('.')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
