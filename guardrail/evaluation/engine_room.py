"""How much memory the bench's keys and values take, and how many resident policies that leaves room for."""

from collections.abc import Sequence
from dataclasses import dataclass

from guardrail.engine.cope.kv import PAGE
from guardrail.errors import GuardrailError
from guardrail.evaluation.engine_streams import ALREADY, TOGETHER, Growth
from guardrail.evaluation.engine_work import POLICIES, Lengths

KV_SHARE = 0.4  # of the memory that is free; the naive ways need much of the rest
SPARE_PAGES = 8


@dataclass(frozen=True, slots=True)
class Room:
    """`resident`: the asked numbers of policies that fit, `left_out`: those that do not; `nbytes`: of the pool for all of it."""

    resident: tuple[int, ...]
    left_out: tuple[int, ...]
    nbytes: int


def room(lengths: Lengths, growth: Growth, resident: Sequence[int], token_bytes: int, free: int | None) -> Room:
    """What fits into `free` bytes (None: nobody knows, so all of it). Raises GuardrailError when not even four policies do."""
    policy, page_bytes = _pages(lengths.policy), token_bytes * PAGE
    least = POLICIES * policy + _pages(growth.answer) + TOGETHER * _pages(ALREADY + 8 * growth.step) + SPARE_PAGES
    if free is not None and least * page_bytes > free:
        raise GuardrailError(
            f"keys and values of {POLICIES} policies and {TOGETHER} streams take {least * page_bytes / 1e9:.1f} GB and "
            f"{free / 1e9:.1f} GB are free; ask for fewer --policy-tokens or a smaller --shape"
        )
    most = max(resident, default=0)
    if free is not None:
        most = POLICIES + max(0, int(free * KV_SHARE) // page_bytes - least) // policy
    fitting = tuple(count for count in resident if count <= most)
    more = max(0, max(fitting, default=0) - POLICIES)
    return Room(fitting, tuple(count for count in resident if count > most), (least + more * policy) * page_bytes)


def _pages(tokens: int) -> int:
    return -(-tokens // PAGE)
