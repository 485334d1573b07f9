"""What an engine remembers stays bounded, and what it forgets costs nobody else anything."""

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest
from engine_rig import SumRunner, running

from guardrail.engine.cope.composing import Parts
from guardrail.engine.cope.messages import Prefix
from guardrail.engine.cope.prefixes import PrefixStore
from guardrail.engine.cope.streams import StreamStore
from guardrail.errors import ClassifierError


def forgetful(pages: int) -> Parts:
    """Stores that remember a single policy beside those that are resident."""
    runner = SumRunner(pages=pages)
    prefixes = PrefixStore(runner.pool, most_known=1)
    return Parts(runner, prefixes, StreamStore(prefixes, budget_bytes=0))


def strangers() -> Iterator[Prefix]:
    number = 0
    while True:
        yield Prefix(f"stranger {number}", np.array([number % 400], np.int32))
        number += 1


async def test_thousands_of_policies_that_came_and_went_leave_the_canary_its_own():
    new = strangers()
    async with running(forgetful(pages=8)) as rig:
        await rig.prepare(rig.prefix("all", 8 * 64))  # the canary leaves
        for count in (9_000, 1):
            with pytest.raises(ClassifierError, match="deadline"):
                await rig.engine.prepare([next(new) for _ in range(count)], deadline=0.0)
        await rig.settled()
        assert len(rig.engine._loop.lengths) < 10

        rig.engine._loop.post(rig.engine._loop._canary.doubt)
        before = rig.engine.health().batches
        while rig.engine.health().batches < before + 1:
            assert rig.engine.health().alive, rig.engine.health().detail
            await asyncio.sleep(0.02)
