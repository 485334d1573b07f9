"""A seeded search over a trainer's settings: many short trials, the best of them longer, the best of those longer still.

Successive halving (Jamieson and Talwalkar 2016) over settings that are drawn at random; TACTIC's thirty trials are the model for it, whose
space and rule are unpublished. What a trial is, is somebody else's matter: settings, steps and a seed go in, numbers come out.
"""

import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from guardrail.errors import GuardrailError

Value = float | int | str | bool
Trial = Callable[[Mapping[str, Value], int, Path], Mapping[str, float]]
STEPS = "steps"  # the setting that says how long a trial is
LOG, NOTE = "trials.jsonl", "sweep.json"
DIGITS = 4


@dataclass(frozen=True, slots=True)
class Parameter:
    """A setting: evenly between `low` and `high`, evenly between their logarithms, a whole number, or one of `choices`.

    `default`, where there is one, is what the first trial takes: the sweep then holds the settings of now.
    """

    name: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    choices: tuple[Value, ...] = ()
    default: Value | None = None

    def draw(self, seed: int, trial: int) -> Value:
        """Its value in a trial: the same whatever other settings there are."""
        if trial == 0 and self.default is not None:
            return self.default
        random_ = random.Random(f"{seed}:{trial}:{self.name}")  # noqa: S311  (sampling, not secrecy)
        if self.kind == "choice":
            return random_.choice(self.choices)
        if self.kind == "integer":
            return random_.randint(int(self.low), int(self.high))
        if self.kind == "log":
            return float(f"{math.exp(random_.uniform(math.log(self.low), math.log(self.high))):.{DIGITS}g}")
        return float(f"{random_.uniform(self.low, self.high):.{DIGITS}g}")


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is tried: `trials` draws of the parameters, each for the first number of `rungs` steps, `keep` of them for the next, and so on.

    `metric` is what trials are ranked by, the highest first, or the lowest. `budget`: steps of all trials together at most.
    `trainer` says in words what a trial runs: results of one are none of another.
    """

    parameters: tuple[Parameter, ...]
    metric: str
    highest: bool
    trials: int
    rungs: tuple[int, ...]
    keep: float = 1 / 3
    seed: int = 1
    budget: int | None = None
    trainer: str = ""

    def settings(self, trial: int) -> dict[str, Value]:
        """What a trial tries."""
        return {each.name: each.draw(self.seed, trial) for each in self.parameters}


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a trial of so many steps: metrics, or why there are none."""

    trial: int
    steps: int
    settings: Mapping[str, Value]
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a sweep is: runs done of those that are planned, steps spent of all, and the best run yet."""

    done: int
    total: int
    steps: int
    best: Result | None


def planned(sweep: Sweep) -> list[int]:
    """How many trials each rung has."""
    counts = [sweep.trials]
    for _ in sweep.rungs[1:]:
        counts.append(max(1, math.ceil(counts[-1] * sweep.keep)))
    return counts


def run(sweep: Sweep, trial: Trial, folder: Path, *, report: Callable[[Progress], None] = lambda _: None) -> list[Result]:
    """Try what the folder holds no result of, and write each result there as it comes; failed trials are tried again when called again.

    A trial that raises GuardrailError is noted with its reason and ranks last. Raises GuardrailError when the folder holds another sweep,
    or when no trial of a rung came to a number.
    """
    if list(sweep.rungs) != sorted(set(sweep.rungs)) or not sweep.rungs:
        raise GuardrailError(f"the steps of the rungs must rise: {', '.join(map(str, sweep.rungs)) or 'there are none'}")
    log = _opened(sweep, folder)
    known = {(each.trial, each.steps): each for each in read_results(folder) if not each.error}
    found: list[Result] = []
    counts, spent = planned(sweep), 0
    chosen = list(range(sweep.trials))
    for count, steps in zip(counts, sweep.rungs, strict=True):
        for number in chosen[:count]:
            if sweep.budget is not None and spent + steps > sweep.budget:
                return found
            spent += steps
            result = known.get((number, steps))
            if result is None:
                result = _tried(sweep, trial, number, steps, folder)
                with log.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(asdict(result)) + "\n")
            found.append(result)
            report(Progress(len(found), sum(counts), spent, best(sweep, found)))
        chosen = [each.trial for each in ranked(sweep, found) if each.steps == steps and not each.error]
        if not chosen:
            raise GuardrailError(f"no trial of {steps} steps came to a number: {found[-1].error}; see {log}")
    return found


def _tried(sweep: Sweep, trial: Trial, number: int, steps: int, folder: Path) -> Result:
    settings = sweep.settings(number)
    began = time.monotonic()
    metrics: Mapping[str, float] = {}
    error = ""
    try:
        metrics = trial({**settings, STEPS: steps}, sweep.seed, folder / f"trial-{number:03}-{steps}")
        if not math.isfinite(metrics.get(sweep.metric, math.nan)):
            error = f"it gave no {sweep.metric}, only {', '.join(metrics) or 'nothing'}"
    except GuardrailError as failed:
        error = str(failed)
    return Result(number, steps, settings, {} if error else dict(metrics), round(time.monotonic() - began, 1), error)


def _opened(sweep: Sweep, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / NOTE
    # How many there are and how long it goes on may change: what was tried stays what it was.
    fixed = {**asdict(sweep), "trials": 0, "budget": None, "keep": 0.0, "rungs": []}
    told = json.loads(json.dumps(fixed))
    if note.exists() and json.loads(note.read_text(encoding="utf-8")) != told:
        raise GuardrailError(f"{folder} holds another sweep; choose another folder, or remove it")
    note.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    log = folder / LOG
    log.touch()
    return log


def read_results(folder: Path) -> list[Result]:
    """What a sweep's folder holds; the last line on a trial and rung counts, one that was cut off is forgotten."""
    found: dict[tuple[int, int], Result] = {}
    for line in (folder / LOG).read_text(encoding="utf-8").splitlines():
        try:
            each = Result(**json.loads(line))
        except (ValueError, TypeError):
            continue
        found[each.trial, each.steps] = each
    return list(found.values())


def ranked(sweep: Sweep, found: Sequence[Result]) -> list[Result]:
    """Those that went furthest first, among them the best; a trial without a number last."""
    sign = -1 if sweep.highest else 1

    def order(each: Result) -> tuple[Any, ...]:
        return (bool(each.error), -each.steps, sign * each.metrics.get(sweep.metric, 0.0), each.trial)

    return sorted(found, key=order)


def best(sweep: Sweep, found: Sequence[Result]) -> Result | None:
    """The first of the ranking, if it came to a number."""
    first = next(iter(ranked(sweep, found)), None)
    return None if first is None or first.error else first


def leaderboard(sweep: Sweep, found: Sequence[Result]) -> tuple[str, str]:
    """The ranking as Markdown and as TSV. Each trial stands where it got furthest."""
    rows: dict[int, Result] = {}
    for each in ranked(sweep, found):
        rows.setdefault(each.trial, each)
    others = sorted({name for each in rows.values() for name in each.metrics} - {sweep.metric})
    names = [each.name for each in sweep.parameters]
    head = ["rank", "trial", "steps", sweep.metric, *names, *others, "seconds", "error"]
    lines = []
    for rank, each in enumerate(rows.values(), start=1):
        metrics = [_number(each.metrics.get(name)) for name in (sweep.metric, *others)]
        settings = [f"{each.settings[name]}" for name in names]
        lines.append([str(rank), str(each.trial), str(each.steps), metrics[0], *settings, *metrics[1:], f"{each.seconds:g}", each.error])
    tsv = "\n".join("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in line) for line in [head, *lines]) + "\n"
    table = [head, ["--:"] * (len(head) - 1) + ["---"], *lines]
    markdown = "\n".join(f"| {' | '.join(cell.replace('|', '/').replace(chr(10), ' ') for cell in line)} |" for line in table) + "\n"
    return markdown, tsv


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.{DIGITS}f}"
