"""Lanes measured in rounds that take turns, and what is made of the times: medians, ratios within rounds, differences of answers."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from guardrail.evaluation.engine_roofline import Pass, Roofline
from guardrail.evaluation.engine_work import Answers

PROCESS_STATUS = Path("/proc/self/status")


class Watch(Protocol):
    """Who is told how far a long measurement has come; seconds are those that are predicted."""

    def expect(self, seconds: float) -> None:
        """So much more is to come."""
        ...

    def passed(self, name: str, seconds: float) -> None:
        """So much of it is done."""
        ...


@dataclass(frozen=True, slots=True)
class Lane:
    """One way to judge. `run` answers `requests` requests and is told the number of the round (0 warms up and is not counted).

    `passes` answer `together` requests; `predicted_s`: what one request should take, said before anything was run. `tokens`: content
    tokens of one. `band`: how far an answer may be from the naive one before the lane's speed is worth nothing.
    """

    name: str
    requests: int
    run: Callable[[int], Answers]
    passes: tuple[Pass, ...]
    together: int
    tokens: int
    predicted_s: float
    band: float


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds a request, one entry a round, and every answer that was given."""

    seconds: tuple[float, ...]
    answers: Answers


@dataclass(frozen=True, slots=True)
class Line:
    """A lane's result. Times in milliseconds a request (median, least and most over the rounds).

    `ratio`: how many times as fast as the naive way, taken within each round, then the median; NaN where the answers are wrong or nothing
    naive was measured. `roofline`: what its own passes would take at best, over what they took. `max_dp`: largest difference from a
    naive answer, over `compared` answers; `right` where that is within the lane's band.
    """

    name: str
    ms: float
    least_ms: float
    most_ms: float
    ratio: float
    tokens_per_s: float
    predicted_ms: float
    roofline: float
    max_dp: float
    compared: int
    right: bool


def measure(lanes: Sequence[Lane], rounds: int, watch: Watch) -> dict[str, Taken]:
    """Run every lane once to warm up and then `rounds` times, forwards and backwards in turn: nobody always follows the same neighbour."""
    seconds: dict[str, list[float]] = {lane.name: [] for lane in lanes}
    answers: dict[str, dict[tuple[int, int], float]] = {lane.name: {} for lane in lanes}
    watch.expect(sum(lane.predicted_s * lane.requests for lane in lanes) * (rounds + 1))
    for number in range(rounds + 1):
        for lane in lanes[:: -1 if number % 2 else 1]:
            began = time.perf_counter()
            answers[lane.name].update(lane.run(number))
            if number:
                seconds[lane.name].append((time.perf_counter() - began) / lane.requests)
            watch.passed(lane.name, lane.predicted_s * lane.requests)
    return {lane.name: Taken(tuple(seconds[lane.name]), answers[lane.name]) for lane in lanes}


@dataclass(frozen=True, slots=True)
class Yardstick:
    """The naive lane's name, its answers (and further ones that were given the same way), and what the machine could do."""

    naive: str
    answers: Answers
    roofline: Roofline


def lines(lanes: Sequence[Lane], taken: Mapping[str, Taken], against: Yardstick) -> list[Line]:
    """One line a lane."""
    naive = taken.get(against.naive, Taken((), {}))
    return [_line(lane, taken[lane.name], naive, against) for lane in lanes]


def _line(lane: Lane, mine: Taken, naive: Taken, against: Yardstick) -> Line:
    median = statistics.median(mine.seconds)
    gaps = differences(mine.answers, {**against.answers, **naive.answers})
    right = bool(gaps) and max(gaps) <= lane.band
    ratios = [theirs / own for theirs, own in zip(naive.seconds, mine.seconds, strict=bool(naive.seconds))]
    return Line(
        name=lane.name,
        ms=median * 1000,
        least_ms=min(mine.seconds) * 1000,
        most_ms=max(mine.seconds) * 1000,
        ratio=statistics.median(ratios) if ratios and right else math.nan,
        tokens_per_s=lane.tokens / median,
        predicted_ms=lane.predicted_s * 1000,
        roofline=sum(against.roofline.floor(some) for some in lane.passes) / lane.together / median,
        max_dp=max(gaps, default=math.nan),
        compared=len(gaps),
        right=right,
    )


def differences(answers: Answers, truth: Answers) -> list[float]:
    """How far each answer is from the naive one of the same request, where there is one; what is not a number is infinitely far."""
    gaps = [abs(answers[key] - truth[key]) for key in sorted(answers.keys() & truth.keys())]
    return [math.inf if math.isnan(gap) else gap for gap in gaps]


def peak_rss() -> int | None:
    """The most memory this process has had, in bytes; None where the system does not tell."""
    if not PROCESS_STATUS.exists():
        return None
    for line in PROCESS_STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
