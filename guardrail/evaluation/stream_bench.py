"""What each streaming mode costs: time to the first token and to the last, and how much of the answer is classified for it."""

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp

from guardrail.errors import ClassifierError
from guardrail.interfaces import Classifier, Session, SupportsSessions
from guardrail.types import ClassifyRequest, Policy, Score

DIRECT = "direct"
_WORDS = [
    "the",
    "river",
    "runs",
    "slowly",
    "past",
    "an",
    "old",
    "mill",
    "where",
    "nobody",
    "is",
    "in",
    "any",
    "hurry",
    "and",
    "every",
    "garden",
    "on",
    "its",
    "way",
    "is",
    "calm",
    "today",
]


@dataclass(slots=True)
class Work:
    """What a classifier was asked: `characters` (each once for each policy), `tokens` that sessions ran, `checks`, and what they took."""

    characters: int = 0
    tokens: int = 0
    checks: int = 0
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Streamed:
    """One mode's figures: medians over the rounds, in seconds. `work` is what was classified, in whole checks of the answer."""

    mode: str
    first_s: float
    total_s: float
    checks: int = 0
    work: float = 0.0
    verdict_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """One answer of `tokens` at `rate` a second, and the windows that it is judged in, in characters."""

    tokens: int = 1_000
    rate: float = 100.0
    window: int = 400
    overlap: int = 80
    rounds: int = 1

    @property
    def text(self) -> str:
        """The answer: plain words, one a token, a sentence every twelve."""
        words = [_WORDS[number % len(_WORDS)] + ("." if number % 12 == 11 else "") for number in range(self.tokens)]
        return " ".join(words)

    @property
    def window_s(self) -> float:
        """How long the upstream takes to write a window."""
        return self.window / (len(self.text) / self.tokens) / self.rate


class Counted:
    """A classifier that is counted. It has sessions where the one within it has."""

    def __init__(self, inner: Classifier) -> None:
        self.inner = inner
        self.work = Work()

    @property
    def id(self) -> str:
        """The inner one's."""
        return self.inner.id

    async def prepare(self, policies: Sequence[Policy]) -> None:
        """See `Classifier`."""
        await self.inner.prepare(policies)

    async def classify(self, requests: Sequence[ClassifyRequest], *, deadline: float) -> list[Score | ClassifierError]:
        """See `Classifier`."""
        began = time.perf_counter()
        answers = await self.inner.classify(requests, deadline=deadline)
        self.work.checks += 1
        self.work.characters += sum(len(request.text) for request in requests)
        self.work.seconds.append(time.perf_counter() - began)
        return answers

    async def aclose(self) -> None:
        """The inner one is closed by who opened it."""


class CountedSessions(Counted):
    """Of a classifier with sessions."""

    def session(self, policies: Sequence[Policy], *, tenant: str = "*") -> "_CountedSession":
        """See `SupportsSessions`."""
        assert isinstance(self.inner, SupportsSessions)
        return _CountedSession(self.inner.session(policies, tenant=tenant), self.work, len(policies))


class _CountedSession:
    def __init__(self, inner: Session, work: Work, policies: int) -> None:
        self._inner = inner
        self._work = work
        self._policies = policies

    async def extend(self, text: str, *, deadline: float, final: bool = False) -> list[Score | ClassifierError] | None:
        before, began = self._run(), time.perf_counter()
        answers = await self._inner.extend(text, deadline=deadline, final=final)
        self._work.checks += 1
        self._work.characters += len(text) * self._policies
        self._work.tokens += self._run() - before
        self._work.seconds.append(time.perf_counter() - began)
        return answers

    async def aclose(self) -> None:
        await self._inner.aclose()

    def _run(self) -> int:
        return int(getattr(self._inner, "tokens_run", 0))


def counted(classifier: Classifier) -> Counted:
    """The classifier, counted."""
    return CountedSessions(classifier) if isinstance(classifier, SupportsSessions) else Counted(classifier)


async def whole_check(classifier: Counted, policies: Sequence[Policy], text: str) -> Work:
    """What one check of the whole answer is."""
    classifier.work = Work()
    if isinstance(classifier, CountedSessions):
        session = classifier.session(policies)
        try:
            await session.extend(text, deadline=time.monotonic() + 600, final=True)
        finally:
            await session.aclose()
    else:
        await classifier.classify([ClassifyRequest(policy, text) for policy in policies], deadline=time.monotonic() + 600)
    return classifier.work


def share(work: Work, whole: Work) -> float:
    """Work in whole checks: by tokens where sessions tell them, else by characters."""
    return work.tokens / whole.tokens if whole.tokens and work.tokens else work.characters / max(whole.characters, 1)


async def timed(client: aiohttp.ClientSession, url: str, prompt: str) -> tuple[float, float, str]:
    """Seconds to the first text of a streamed chat answer and to its end, and all of its text. Raises RuntimeError for an error status."""
    body = {"model": "embedded-paced", "stream": True, "messages": [{"role": "user", "content": prompt}]}
    began, first, said = time.perf_counter(), 0.0, []
    async with client.post(f"{url}/v1/chat/completions", json=body) as answer:
        if answer.status != 200:
            raise RuntimeError(f"the answer has status {answer.status}")
        async for line in answer.content:
            if not line.startswith(b"data: {"):
                continue
            for choice in json.loads(line[6:])["choices"]:
                if text := choice["delta"].get("content"):
                    first = first or time.perf_counter() - began
                    said.append(text)
    return first, time.perf_counter() - began, "".join(said)


def summed(mode: str, times: Sequence[tuple[float, float]], works: Sequence[Work], whole: Work) -> Streamed:
    """The rounds of one mode as one row."""
    firsts, totals = zip(*times, strict=True)
    seconds = [each for work in works for each in work.seconds]
    shares = [share(work, whole) for work in works]
    return Streamed(
        mode,
        statistics.median(firsts),
        statistics.median(totals),
        round(statistics.median(work.checks for work in works)),
        statistics.median(shares),
        max(seconds, default=0.0),
    )


def bars(rows: Sequence[Streamed], plan: Plan, *, resident: bool) -> list[tuple[str, bool]]:
    """What `overlap` may cost, each with whether it was kept."""
    by_mode = {row.mode: row for row in rows}
    direct, overlap = by_mode[DIRECT], by_mode["overlap"]
    late, most = overlap.first_s - direct.first_s, plan.window_s + overlap.verdict_s
    slower = overlap.total_s / direct.total_s - 1
    told = [
        (f"overlap: the first token is {late:.3f} s late; at most a window and a verdict, {most:.3f} s", late <= most),
        (f"overlap: the whole takes {slower:+.1%}; at most +5 %", slower <= 0.05),
    ]
    if resident:
        told.append((f"overlap: {overlap.work:.2f} whole checks of work with resident sessions; at most 1.30", overlap.work <= 1.3))
    return told
