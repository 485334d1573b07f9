"""A growing answer that is judged again every few tokens: only its new tokens are run, or all of it, or policy and all of it."""

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from guardrail.engine.cope.messages import Ask
from guardrail.engine.cope.rows import Row
from guardrail.engine.cope.runner import execute
from guardrail.engine.cope.streams import StreamStore
from guardrail.evaluation.engine_ours import Ours, passes, probability
from guardrail.evaluation.engine_roofline import Pass, Roofline
from guardrail.evaluation.engine_rounds import Watch
from guardrail.evaluation.engine_work import Ids, header, tokens

NAIVE_CHECKS = 3  # of an answer's; their mean stands for all, as cost grows in a straight line
TOGETHER = 16
ALREADY = 200  # tokens that each of several streams has said before they are judged together
FOREVER = math.inf


@dataclass(frozen=True, slots=True)
class Growth:
    """An answer of `answer` tokens, judged every `step`, with a question of `fork` tokens that is forgotten each time."""

    answer: int = 480
    step: int = 16
    fork: int = 9

    @property
    def checks(self) -> tuple[int, ...]:
        """Tokens streamed when the answer is judged."""
        return tuple(range(self.step, self.answer + 1, self.step))


@dataclass(frozen=True, slots=True)
class Curve:
    """Milliseconds of the checks of one way, medians over the rounds, at so many tokens streamed; predictions beside them."""

    name: str
    at: tuple[int, ...]
    ms: tuple[float, ...]
    predicted_ms: tuple[float, ...]

    @property
    def mean_ms(self) -> float:
        """Of a check."""
        return statistics.fmean(self.ms)


@dataclass(frozen=True, slots=True)
class Streams:
    """`max_dp`: between the incremental way and, at every check, the re-check; where it was run, the naive way.

    The naive curve has three checks. `tokens_run` by the incremental way for `tokens_streamed`. `packed_ms` and `alone_ms` a check, of 16
    streams judged in one go and one by one.
    """

    incremental: Curve
    rechecked: Curve
    naive: Curve
    max_dp: float
    max_dp_naive: float
    tokens_run: int
    tokens_streamed: int
    packed_ms: float
    alone_ms: float

    @property
    def over_rechecked(self) -> float:
        """How many times as much the answer costs when its content is run again at each check."""
        return self.rechecked.mean_ms / self.incremental.mean_ms

    @property
    def over_naive(self) -> float:
        """How many times as much it costs when the policy is run again, too."""
        return self.naive.mean_ms / self.incremental.mean_ms


class Streaming:
    """One answer under policy 0, judged the three ways; and several answers at once."""

    def __init__(self, ours: Ours, growth: Growth, naive: Callable[[Ids], float], *, seed: int = 1) -> None:
        ids = random.Random(seed)  # noqa: S311  (work to measure with, not a secret)
        vocabulary = int(max(row.max() for row in ours.work.rows)) + 1
        self._ours = ours
        self._growth = growth
        self._naive = naive
        self._span = ours.spans[0]
        self._answer = tokens(ids, vocabulary, growth.answer)
        self._others = [tokens(ids, vocabulary, ALREADY + 8 * growth.step) for _ in range(TOGETHER)]
        self._fork = header(growth.fork)
        self._store = StreamStore(ours.store, budget_bytes=ours.runner.pool.pages * ours.runner.pool.page_bytes)

    def measure(self, rounds: int, roofline: Roofline, watch: Watch) -> Streams:
        """Rounds that take turns; one more comes first and is not counted."""
        checks, policy = self._growth.checks, self._span.length
        few = [checks[len(checks) * (place + 1) // NAIVE_CHECKS - 1] for place in range(min(NAIVE_CHECKS, len(checks)))]
        step = [1000 * roofline.predict(Pass(1, self._growth.step + self._growth.fork, policy + at - self._growth.step)) for at in checks]
        whole = [1000 * roofline.predict(Pass(1, at + self._growth.fork, policy)) for at in checks]
        plain = [1000 * roofline.predict(Pass(1, policy + at + self._growth.fork, eager=True)) for at in few]
        watch.expect((rounds + 1) * (sum(step) + sum(whole) + sum(plain)) / 1000)
        ways = [
            ("incremental", self._incremental, checks, step),
            ("policy resident, content run again", self._rechecked, checks, whole),
            ("naive", self._whole, few, plain),
        ]
        seconds: dict[str, list[list[float]]] = {name: [] for name, *_ in ways}
        found: dict[str, list[float]] = {}
        packed, alone = [], []
        for number in range(rounds + 1):
            for name, run, at, predicted in ways[:: -1 if number % 2 else 1]:
                took, found[name] = run(at)
                if number:
                    seconds[name].append(took)
                watch.passed(f"stream, {name}", sum(predicted) / 1000)
            together, apart = self._several()
            if number:
                packed.append(together)
                alone.append(apart)
        curves = [Curve(name, tuple(at), _medians(seconds[name]), tuple(predicted)) for name, _, at, predicted in ways]
        mine, again, truth = (found[name] for name, *_ in ways)
        counters = self._counted()
        return Streams(
            incremental=curves[0],
            rechecked=curves[1],
            naive=curves[2],
            max_dp=_largest(mine, again),
            max_dp_naive=_largest([mine[checks.index(at)] for at in few], truth),
            tokens_run=counters[0],
            tokens_streamed=counters[1],
            packed_ms=statistics.median(packed) * 1000,
            alone_ms=statistics.median(alone) * 1000,
        )

    def _incremental(self, checks: Sequence[int]) -> tuple[list[float], list[float]]:
        answers, took = [], []
        for at in checks:
            began = time.perf_counter()
            answers += self._step([("answer", self._answer[:at])])
            took.append(time.perf_counter() - began)
        self._store.forget("answer")
        return took, answers

    def _rechecked(self, checks: Sequence[int]) -> tuple[list[float], list[float]]:
        answers, took = [], []
        for at in checks:
            began = time.perf_counter()
            row = Row(np.concatenate([self._answer[:at], self._fork]), chain=(self._span,))
            answers.append(probability(execute(self._ours.runner, [row])[0]))
            took.append(time.perf_counter() - began)
        return took, answers

    def _whole(self, checks: Sequence[int]) -> tuple[list[float], list[float]]:
        answers, took = [], []
        for at in checks:
            began = time.perf_counter()
            answers.append(self._naive(np.concatenate([self._span.tokens, self._answer[:at], self._fork])))
            took.append(time.perf_counter() - began)
        return took, answers

    def _several(self) -> tuple[float, float]:
        """Seconds a check of 16 streams that each said `step` tokens more: all in one go, and one after the other."""
        names = [f"stream {number}" for number in range(TOGETHER)]
        length = ALREADY
        self._step([(name, said[:length]) for name, said in zip(names, self._others, strict=True)])
        length += self._growth.step
        began = time.perf_counter()
        self._step([(name, said[:length]) for name, said in zip(names, self._others, strict=True)])
        packed = time.perf_counter() - began
        length += self._growth.step
        began = time.perf_counter()
        for name, said in zip(names, self._others, strict=True):
            self._step([(name, said[:length])])
        alone = time.perf_counter() - began
        for name in names:
            self._store.forget(name)
        return packed / TOGETHER, alone / TOGETHER

    def _step(self, grown: Sequence[tuple[str, Ids]]) -> list[float]:
        """The next check of each stream, in as few passes as the engine would take."""
        asks = [Ask("policy 0", np.concatenate([said, self._fork]), FOREVER, stream=name, keep=len(said)) for name, said in grown]
        rows = [self._store.row(ask, self._span) for ask in asks]
        reads = [read for some in passes(rows, self._ours.runner.most_tokens) for read in execute(self._ours.runner, some)]
        for name, _ in grown:
            self._store.settle(name, "policy 0")
        return [probability(read) for read in reads]

    def _counted(self) -> tuple[int, int]:
        """Tokens run and streamed for one answer."""
        before = self._store.counters
        self._incremental(self._growth.checks)
        after = self._store.counters
        return after.tokens_run - before.tokens_run, after.tokens_streamed - before.tokens_streamed


def _medians(rounds: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(statistics.median(seconds) * 1000 for seconds in zip(*rounds, strict=True))


def _largest(mine: Sequence[float], theirs: Sequence[float]) -> float:
    gaps = [abs(own - other) for own, other in zip(mine, theirs, strict=True)]
    return math.inf if any(math.isnan(gap) for gap in gaps) else max(gaps)
