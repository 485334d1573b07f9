"""The readings of texts, made where they hold nobody up."""

import asyncio
import re
from collections.abc import Collection

from guardrail.normalize import Readings
from guardrail.questions import readings_of
from guardrail.types import ReadingLimits

_LONG = 10_000  # characters whose disguises are looked for beside the event loop: some milliseconds of it
_CODED = 500  # of them that no prose is mostly made of: codes cost more to look into
_PROSE = re.compile(r"[a-z\s.,;:'\"?]+")


async def read(texts: Collection[str], limits: ReadingLimits | None, *, deadline: float) -> dict[str, Readings]:
    """The readings of each text; long ones are read beside the event loop."""
    if limits is None or not _is_long(texts):
        return readings_of(texts, limits, deadline=deadline)
    return await asyncio.to_thread(readings_of, texts, limits, deadline=deadline)


def _is_long(texts: Collection[str]) -> bool:
    """Whether reading them takes more than some milliseconds."""
    length = sum(map(len, texts))
    return length >= _LONG or (length >= _CODED and sum(len(_PROSE.sub("", text)) for text in texts) >= _CODED // 2)
