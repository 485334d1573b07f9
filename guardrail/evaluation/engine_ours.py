"""This engine's own ways to judge the bench's work, and how flat its latency stays with many policies resident."""

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from guardrail.engine.cope.answer import share
from guardrail.engine.cope.kv import KVSpan
from guardrail.engine.cope.messages import Prefix
from guardrail.engine.cope.prefixes import PrefixStore
from guardrail.engine.cope.rows import Row
from guardrail.engine.cope.runner import Read, Runner, execute
from guardrail.evaluation.engine_baselines import chosen
from guardrail.evaluation.engine_rounds import Watch, differences
from guardrail.evaluation.engine_work import Answers, Ids, Work

PASS_TOKENS = 1024  # new tokens of one pass, as the engine packs them
PACKED = 32


class Ours:
    """Rows through `execute`, policies resident: filled once, in passes like all others, and kept."""

    def __init__(self, runner: Runner, work: Work) -> None:
        self.runner = runner
        self.work = work
        self.store = PrefixStore(runner.pool)
        self.spans = tuple(self._resident(f"policy {number}", tokens) for number, tokens in enumerate(work.policies))

    def judge(self, number: int, *, requests: int, batch: int, policies: int) -> Answers:
        """Requests of a round, `batch` at a time, over the first `policies` policies in turn."""
        asked = [(content % policies, content) for content in chosen(number, requests)]
        found: dict[tuple[int, int], float] = {}
        for first in range(0, len(asked), batch):
            found.update(self.answer(asked[first : first + batch]))
        return found

    def answer(self, asked: Sequence[tuple[int, int]], spans: Sequence[KVSpan] = ()) -> Answers:
        """One batch of (policy, content); `spans` hold the policies instead of this object's own."""
        held = spans or [self.spans[policy] for policy, _ in asked]
        rows = [Row(self.work.rows[content], chain=(span,)) for (_, content), span in zip(asked, held, strict=True)]
        reads = [read for some in passes(rows, self.runner.most_tokens) for read in execute(self.runner, some)]
        return dict(zip(asked, map(probability, reads), strict=True))

    def _resident(self, key: str, tokens: Ids) -> KVSpan:
        self.store.register(Prefix(key, tokens))
        filling = self.store.fill(key)
        while (row := filling.row(min(PASS_TOKENS, self.runner.most_tokens))) is not None:
            execute(self.runner, [row])
            filling.settle()
        span = self.store.acquire(key, "*")
        assert span is not None  # it was filled a line ago and nothing has run since
        return span


@dataclass(frozen=True, slots=True)
class Resident:
    """One request at a time, and 32 in one go, each under another policy than the last, with so many policies resident.

    Milliseconds a request; `max_dp` against the naive answers.
    """

    policies: int
    kv_bytes: int
    ms: float
    least_ms: float
    most_ms: float
    packed_ms: float
    max_dp: float


def residents(ours: Ours, counts: Sequence[int], rounds: int, known: Answers, watch: Watch) -> list[Resident]:
    """Latency by the number of resident policies, in rounds that take turns.

    Beyond the first four, policies are copies of their keys and values on pages of their own: the memory that is read is as much as
    with so many different ones, and the answers can be compared. Raises OutOfPages when the pool does not hold them.
    """
    spans = list(ours.spans)
    while len(spans) < max(counts):
        spans.append(copied(ours.spans[len(spans) % len(ours.spans)]))
    began = time.perf_counter()
    _round(ours, spans[:1], 0, known)
    each = time.perf_counter() - began
    watch.expect(each * (rounds + 1) * len(counts))
    single: dict[int, list[float]] = {count: [] for count in counts}
    packed: dict[int, list[float]] = {count: [] for count in counts}
    gaps: dict[int, list[float]] = {count: [] for count in counts}
    for number in range(rounds + 1):
        for count in counts[:: -1 if number % 2 else 1]:
            alone, together, off = _round(ours, spans[:count], number, known)
            if number:  # the first one warms up
                single[count] += alone
                packed[count].append(together)
            watch.passed(f"{count} policies resident", each)
            gaps[count] += off
    for span in spans[len(ours.spans) :]:
        span.drop()
    return [
        Resident(
            policies=count,
            kv_bytes=sum(span.nbytes for span in spans[: min(count, len(ours.spans))]) * count // min(count, len(ours.spans)),
            ms=statistics.median(single[count]) * 1000,
            least_ms=min(single[count]) * 1000,
            most_ms=max(single[count]) * 1000,
            packed_ms=statistics.median(packed[count]) * 1000,
            max_dp=max(gaps[count], default=math.nan),
        )
        for count in counts
    ]


def _round(ours: Ours, spans: Sequence[KVSpan], number: int, known: Answers) -> tuple[list[float], float, list[float]]:
    """Seconds of single requests, seconds a request of a packed batch, differences from the naive answers."""
    step = max(1, len(spans) // 8)
    places = [(number + place * step) % len(spans) for place in range(8)]
    alone, off = [], []
    for place in places:
        policy = place % len(ours.spans)
        began = time.perf_counter()
        answers = ours.answer([(policy, policy)], [spans[place]])
        alone.append(time.perf_counter() - began)
        off += differences(answers, known)
    asked = [(place % len(spans) % len(ours.spans), place) for place in range(PACKED)]
    began = time.perf_counter()
    off += differences(ours.answer(asked, [spans[place % len(spans)] for place in range(PACKED)]), known)
    return alone, (time.perf_counter() - began) / PACKED, off


def copied(span: KVSpan) -> KVSpan:
    """The same tokens on pages of their own."""
    other = KVSpan(span.pool)
    other.reserve(span.length)
    device = span.pool.kv.device
    target = torch.from_numpy(other.slots(0, span.length)).to(device)
    source = torch.from_numpy(span.slots(0, span.length)).to(device)
    for layer in span.pool.kv:  # layer by layer: the copy in between stays small
        layer[:, :, target] = layer[:, :, source]
    other.append(span.tokens)
    return other


def passes(rows: Sequence[Row], most_tokens: int) -> Iterator[list[Row]]:
    """The rows in order, as many in one pass as the engine would pack."""
    most, taken, waiting = min(PASS_TOKENS, most_tokens), 0, list[Row]()
    for row in rows:
        if waiting and taken + len(row.tokens) > most:
            yield waiting
            waiting, taken = [], 0
        waiting.append(row)
        taken += len(row.tokens)
    if waiting:
        yield waiting


def probability(read: Read | None) -> float:
    """p1 / (p0 + p1); NaN where nothing was read."""
    if read is None:
        return math.nan
    return share(read)
