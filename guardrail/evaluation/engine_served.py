"""The whole engine under the bench's work: asked from an event loop, scheduled and packed by its own thread."""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Literal

from guardrail.engine.cope.composing import Parts
from guardrail.engine.cope.engine import LocalEngine, Vigils
from guardrail.engine.cope.messages import Ask, EngineInfo, Prefix
from guardrail.engine.cope.prefixes import PrefixStore
from guardrail.engine.cope.runner import Runner
from guardrail.engine.cope.settings import EngineSettings
from guardrail.engine.cope.streams import StreamStore
from guardrail.errors import ClassifierError, GuardrailError
from guardrail.evaluation.engine_baselines import chosen
from guardrail.evaluation.engine_ours import probability
from guardrail.evaluation.engine_work import Answers, Work

PATIENCE_S = 3600.0
VIGILS = Vigils(canary_s=PATIENCE_S)  # its own questions between ours would be measured, too

Manner = Literal["one by one", "at once"]


class Served:
    """An engine with the work's policies prepared."""

    def __init__(self, engine: LocalEngine, work: Work, loop: asyncio.Runner) -> None:
        self._engine = engine
        self._work = work
        self._loop = loop

    def judge(self, number: int, *, requests: int, policies: int, manner: Manner) -> Answers:
        """Requests of a round under the first `policies` policies in turn. Raises GuardrailError when one is not answered."""
        asked = [(content % policies, content) for content in chosen(number, requests)]
        if manner == "at once":
            return self._loop.run(self._ask(asked))
        return {key: answer for one in asked for key, answer in self._loop.run(self._ask([one])).items()}

    async def _ask(self, asked: Sequence[tuple[int, int]]) -> Answers:
        deadline = time.monotonic() + PATIENCE_S
        told = await self._engine.ask([Ask(f"policy {policy}", self._work.rows[content], deadline) for policy, content in asked])
        found = {}
        for key, answer in zip(asked, told, strict=True):
            if isinstance(answer, ClassifierError):
                raise GuardrailError(f"the engine did not answer: {answer}")
            found[key] = probability(answer.read)
        return found


@contextlib.contextmanager
def served(runner: Runner, work: Work, *, longest: int) -> Iterator[Served]:
    """An engine around a runner that is its own from now on, for the length of the block."""
    prefixes = PrefixStore(runner.pool)
    streams = StreamStore(prefixes, budget_bytes=runner.pool.page_bytes)
    info = EngineInfo(runner.name, "random", "", str(runner.pool.kv.dtype), longest)
    vocabulary = 1 + int(max(tokens.max() for tokens in (*work.policies, *work.rows)))
    engine = LocalEngine(Parts(runner, prefixes, streams), info, EngineSettings("random"), vocabulary=vocabulary, vigils=VIGILS)
    with asyncio.Runner() as loop:
        loop.run(engine.open())
        try:
            policies = [Prefix(f"policy {number}", tokens) for number, tokens in enumerate(work.policies)]
            loop.run(engine.prepare(policies, deadline=time.monotonic() + PATIENCE_S))
            yield Served(engine, work, loop)
        finally:
            loop.run(engine.aclose())
