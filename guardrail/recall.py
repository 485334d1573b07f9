"""One classifier's answers of which some are remembered: only the others are asked for."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from guardrail.escalation import Answer, Ask
from guardrail.events import CacheUsed
from guardrail.types import Score
from guardrail.verdict_cache import Key, VerdictCache

_STRETCH = 2_000  # questions looked up before others have their turn: some milliseconds


async def recalled(
    ask: Ask, classifier: str, cache: VerdictCache, rest: Callable[[Ask], Awaitable[list[Answer]]]
) -> tuple[list[Answer], CacheUsed]:
    """One answer a request, in order. `classifier` is its id, `rest` asks it what is not known. Errors are never remembered."""
    keys: list[Key] = []
    found: list[Answer | None] = []
    for start in range(0, len(ask.requests), _STRETCH):
        if start:
            await asyncio.sleep(0)
        some = cache.keys(ask.requests[start : start + _STRETCH], ask.classifier, classifier)
        keys += some
        found += [cache.get(key, time.monotonic()) for key in some]
    missing = [place for place, score in enumerate(found) if score is None]
    evictions = 0
    if missing:
        told = await rest(Ask(ask.classifier, tuple(ask.requests[place] for place in missing)))
        for place, answer in zip(missing, told, strict=True):
            found[place] = answer
            if isinstance(answer, Score):
                evictions += cache.put(keys[place], answer, time.monotonic())
    return [answer for answer in found if answer is not None], CacheUsed(len(keys) - len(missing), len(missing), evictions)
