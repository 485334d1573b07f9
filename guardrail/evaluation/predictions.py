"""What a run leaves behind: `predictions.jsonl`, one line a judgement, and `run.json`, what it takes to run it again. No texts."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from guardrail.errors import GuardrailError
from guardrail.types import Policy, Stage

PREDICTIONS, RUN = "predictions.jsonl", "run.json"

Key = tuple[str, str, str, str]
Thresholds = Mapping[Stage, Mapping[str, float]]
"""Of prompts and of answers, by the policies' ids."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A judgement of one item under one policy: a score or the code of an error, never both.

    `latency_s` is the duration of the call that it was part of, `together` how many judgements that call asked for,
    `at` the Unix time in seconds when it began, `stage` whether the item is a prompt or an answer (None in older files).
    """

    set: str
    item: str
    policy: str
    digest: str
    label: int | None
    score: float | None
    error: str | None
    latency_s: float
    together: int = 1
    at: float = 0.0
    stage: Stage | None = None

    def __post_init__(self) -> None:
        if self.stage is not None:
            object.__setattr__(self, "stage", Stage(self.stage))
        if (self.score is None) == (self.error is None):
            raise ValueError(f"prediction of {self.item} under {self.policy}: exactly one of score and error must be set")

    @property
    def key(self) -> Key:
        """What it is the answer to: set, item, and the policy's id and digest."""
        return (self.set, self.item, self.policy, self.digest)


@dataclass(frozen=True, slots=True)
class PolicyUsed:
    """A policy of a run and the threshold it had; `output_threshold` is that of answers, where they had another one."""

    id: str
    version: str
    digest: str
    threshold: float
    output_threshold: float | None = None

    @classmethod
    def of(cls, policy: Policy) -> "PolicyUsed":
        """A policy as it is."""
        return cls(policy.id, policy.version, policy.digest, policy.threshold, policy.output_threshold)

    @property
    def thresholds(self) -> str:
        """In words."""
        return f"{self.threshold:g}" if self.output_threshold is None else f"{self.threshold:g}, of answers {self.output_threshold:g}"

    def threshold_at(self, stage: Stage) -> float:
        """From which score a prompt, or an answer, violates."""
        return self.threshold if stage is Stage.INPUT or self.output_threshold is None else self.output_threshold


@dataclass(frozen=True, slots=True)
class SetUsed:
    """A data set of a run; `sha256` is of its file, `rows` how many of it were judged."""

    name: str
    sha256: str
    rows: int


def thresholds_of(policies: Iterable[Policy | PolicyUsed]) -> Thresholds:
    """The thresholds of policies, by stage and id."""
    known = tuple(policies)
    return {stage: {each.id: each.threshold_at(stage) for each in known} for stage in Stage}


def named(policy: str, stage: Stage) -> str:
    """A policy, and that it is about answers where it is."""
    return policy if stage is Stage.INPUT else f"{policy}, answers"


def reached(scores: Mapping[str, float], thresholds: Mapping[str, float]) -> bool:
    """Whether a policy's score is at its threshold or over it."""
    return any(score >= thresholds[policy] for policy, score in scores.items())


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What was run. `machine` (processor, versions) and `seed`, `batch`, `limit` are told so that it can be run again."""

    classifier: str
    policies: tuple[PolicyUsed, ...]
    sets: tuple[SetUsed, ...]
    seed: int = 0
    batch: int = 1
    limit: int | None = None
    areas: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, object] = field(default_factory=dict)

    def differences(self, other: "RunInfo", *, growing: bool = False) -> list[str]:
        """Why predictions of the other run are none of this one, as names of what differs; thresholds and the machine may.

        `growing`: so may which sets there are, and how much of them; a set that both have must be the same.
        """
        ours, theirs = ({each.name: each.sha256 for each in run.sets} for run in (self, other))
        names = {
            "the classifier": self.classifier != other.classifier,
            "the policies": {(each.id, each.digest) for each in self.policies} != {(each.id, each.digest) for each in other.policies},
            "the data": any(theirs[name] != sha256 for name, sha256 in ours.items() if name in theirs) if growing else ours != theirs,
            "which areas are asked under which policy": dict(self.areas) != dict(other.areas),
            "the limit": not growing and self.limit != other.limit,
        }
        return [name for name, differs in names.items() if differs]

    def thresholds(self) -> Thresholds:
        """The threshold of each policy, by its id, for prompts and for answers."""
        return thresholds_of(self.policies)


class PredictionFile:
    """The growing `predictions.jsonl` of one run. A line that was cut off at the end is forgotten; the last line on a key counts."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / PREDICTIONS
        self._path.touch()
        whole = self._path.read_bytes()
        end = whole.rfind(b"\n") + 1
        if end != len(whole):
            with self._path.open("r+b") as file:
                file.truncate(end)

    def read(self) -> dict[Key, Prediction]:
        """What is there."""
        return read_predictions(self._path)

    def add(self, found: Iterable[Prediction]) -> None:
        """Append, and hand it to the operating system before returning."""
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in found)


def read_predictions(path: Path) -> dict[Key, Prediction]:
    """The predictions of a file, by key. Raises GuardrailError that names the line of what is none."""
    found: dict[Key, Prediction] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                each = Prediction(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise GuardrailError(f"{path}:{number}: this is no prediction: {error}") from error
            found[each.key] = each
    return found


def read_run(folder: Path) -> tuple[RunInfo, dict[Key, Prediction]]:
    """A finished or interrupted run. Raises GuardrailError when the folder holds none."""
    if not (folder / RUN).is_file() or not (folder / PREDICTIONS).is_file():
        raise GuardrailError(f"{folder} holds no run: {RUN} and {PREDICTIONS} are missing; make one with `guardrail evaluate run`")
    return read_info(folder), read_predictions(folder / PREDICTIONS)


def read_info(folder: Path) -> RunInfo:
    """`run.json` of a folder. Raises GuardrailError when it is none."""
    try:
        told: dict[str, Any] = json.loads((folder / RUN).read_text(encoding="utf-8"))
        told["policies"] = tuple(PolicyUsed(**each) for each in told["policies"])
        told["sets"] = tuple(SetUsed(**each) for each in told["sets"])
        return RunInfo(**told)
    except (ValueError, TypeError, KeyError) as error:
        raise GuardrailError(f"{folder / RUN}: this does not describe a run: {error}") from error


def write_info(folder: Path, info: RunInfo) -> None:
    """Write `run.json`."""
    (folder / RUN).write_text(json.dumps(asdict(info), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
