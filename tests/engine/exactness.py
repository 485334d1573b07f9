"""What every runner is held to: packed passes over resident spans against the naive forward of whole prompts."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tiny_models import TAIL, head_of, naive, pool_for, probability, tiny_gemma2

from guardrail.engine.cope.flat import FlatRunner
from guardrail.engine.cope.head import AnswerHead
from guardrail.engine.cope.kv import KVPool, KVSpan
from guardrail.engine.cope.packed_weights import PackedWeights
from guardrail.engine.cope.reference import ReferenceRunner
from guardrail.engine.cope.rows import Row
from guardrail.engine.cope.runner import Read, Runner, execute

CLOSE = 1e-4  # probability, fp32: what may part a packed pass from the naive forward

Tokens = NDArray[np.int32]
Make = Callable[[Any, KVPool, AnswerHead], Runner]

shared_gemma2 = functools.cache(tiny_gemma2)  # one model, and one run of the naive forward for a prompt, whichever runner is judged
_NAIVE: dict[tuple[int, bytes], float] = {}

RUNNERS: dict[str, Make] = {
    "reference": ReferenceRunner,
    "cpu": lambda model, pool, head: FlatRunner(PackedWeights.from_gemma2(model), pool, head),
}


class Desk:
    """A runner over a pool of its own, driven as the engine drives it, beside the naive forward of the same model (which must live on)."""

    def __init__(self, model: Any, make: Make, *, pages: int = 256, probe: bool = False) -> None:
        self.model = model
        self.pool = pool_for(model, pages)
        self.runner = make(model, self.pool, head_of(model, probe=probe))

    def prefix(self, tokens: Tokens, *, chunk: int = 512) -> KVSpan:
        """Make a policy resident, chunk by chunk."""
        span = KVSpan(self.pool)
        for start in range(0, len(tokens), chunk):
            self.run([self.prefill(span, tokens[start : start + chunk])])
        return span

    def prefill(self, span: KVSpan, tokens: Tokens) -> Row:
        """The row that appends `tokens` to a policy."""
        return Row(tokens, (span,) if span.length else (), span, len(tokens), read=False)

    def run(self, rows: Sequence[Row]) -> list[Read | None]:
        """One pass."""
        return execute(self.runner, rows)

    def scores(self, rows: Sequence[Row]) -> list[float]:
        """One pass, as probabilities; every row reads."""
        return [probability(read) for read in self.run(rows)]

    def naive(self, *parts: Tokens) -> float:
        """The naive forward's probability for the whole prompt; each prompt is run once."""
        prompt = np.concatenate(parts)
        if (key := (id(self.model), prompt.tobytes())) not in _NAIVE:
            _NAIVE[key] = naive(self.model, prompt)
        return _NAIVE[key]


class Growing:
    """A session under one policy: keeps the longest common token prefix, runs the rest, forgets the answer header."""

    def __init__(self, desk: Desk, policy: KVSpan) -> None:
        self.policy = policy
        self.span = KVSpan(desk.pool, first=policy.length)

    def row(self, content: Tokens, *, probe: bool = False) -> Row:
        """The row that re-judges the content as it now is."""
        held = self.span.tokens
        both = min(len(held), len(content))
        differ = np.flatnonzero(held[:both] != content[:both])
        self.span.truncate(int(differ[0]) if len(differ) else both)
        new = content[self.span.length :]
        chain = (self.policy, self.span) if self.span.length else (self.policy,)
        return Row(np.concatenate([new, TAIL]), chain, self.span, len(new), probe=probe)


def question(policy: KVSpan, content: Tokens) -> Row:
    """A one-shot check: content and answer header behind a resident policy."""
    return Row(np.concatenate([content, TAIL]), (policy,))


def apart(found: Sequence[float], expected: Sequence[float]) -> float:
    """Largest difference; not a number counts as far apart."""
    differences = np.abs(np.asarray(found) - np.asarray(expected))
    return float(np.where(np.isnan(differences), np.inf, differences).max())
