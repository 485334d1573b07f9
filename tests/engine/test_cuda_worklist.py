"""The attention's work list, read back: each query token meets each key that it may see exactly once, and no other."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail.engine.cope.cuda.worklist import Tiling, WorkList, kept_slots, most_entries, row_starts, tiling, work_list
from guardrail.engine.cope.kv import PAGE, KVPool, KVShape, KVSpan
from guardrail.engine.cope.rows import Plan, Row, plan

TILINGS = (Tiling(32, 64, 1), Tiling(32, 64, 4), Tiling(64, 32, 1), Tiling(64, 32, 2), Tiling(16, 16, 3))


def span_of(pool: KVPool, length: int, first: int = 0) -> KVSpan:
    span = KVSpan(pool, first=first)
    span.reserve(length)
    span.append(np.zeros(length, np.int32))
    return span


@st.composite
def passes(draw: st.DrawFn) -> Plan:
    """Rows behind no, one or two spans; policies of any length shared by any rows; pages in one run or scattered."""
    pool = KVPool(KVShape(1, 1, 1), budget_bytes=96 * PAGE * 8)
    if draw(st.booleans()):
        pool.release(pool.allocate(pool.pages)[::2])
    policies = [span_of(pool, draw(st.integers(1, 300))) for _ in range(draw(st.integers(1, 3)))]
    rows = []
    for _ in range(draw(st.integers(1, 8))):
        tokens = np.zeros(draw(st.integers(1, 50)), np.int32)
        policy = draw(st.sampled_from([None, *policies]))
        if policy is None:
            rows.append(Row(tokens))
        elif draw(st.booleans()):
            rows.append(Row(tokens, (policy, span_of(pool, draw(st.integers(1, 90)), first=policy.length))))
        else:
            rows.append(Row(tokens, (policy,)))
    return plan(rows)


def told(planned: Plan, found: WorkList, shape: Tiling, window: int) -> Counter[tuple[int, str, int]]:
    """How often each token meets each pool slot and each own token, as the kernel would by its masks."""
    starts = row_starts(planned)
    met: Counter[tuple[int, str, int]] = Counter()
    for number, (entry, last, own, stop) in enumerate(found.programs.tolist()):
        block = number // shape.splits * shape.block
        for slot, first, count, visible in found.entries[entry:last].tolist():
            for token in range(block + (visible & 255), block + (visible >> 8)):
                oldest = planned.positions[token] - window
                met.update((token, "slot", slot + place) for place in range(count) if first + place > oldest)
        for token in range(block, min(block + shape.block, planned.tokens)):
            met.update((token, "own", other) for other in range(own, stop) if starts[token] <= other <= token and other > token - window)
    return met


def visible(planned: Plan, window: int) -> Counter[tuple[int, str, int]]:
    """The definition: earlier tokens of one's own sequence, no farther away than the window."""
    seen: Counter[tuple[int, str, int]] = Counter()
    for number, row in enumerate(planned.rows):
        start, stop = planned.starts[number : number + 2].tolist()
        slots = np.concatenate([np.zeros(0, np.int64), *(span.slots(0, span.length) for span in row.chain)])
        for token in range(start, stop):
            position = planned.positions[token]
            seen.update((token, "slot", slot) for place, slot in enumerate(slots.tolist()) if place > position - window)
            seen.update((token, "own", other) for other in range(max(start, token - window + 1), token + 1))
    return seen


@settings(max_examples=25, deadline=None)
@given(planned=passes(), shape=st.sampled_from(TILINGS), window=st.one_of(st.none(), st.integers(1, 200)), spare=st.integers(0, 2))
def test_every_key_that_may_be_seen_is_met_exactly_once(planned: Plan, shape: Tiling, window: int | None, spare: int):
    blocks = -(-planned.tokens // shape.block) + spare
    found = work_list(planned, shape, blocks=blocks, window=window)
    assert found.programs.shape == (blocks * shape.splits, 4)
    assert len(found.entries) <= most_entries(planned.tokens, shape, int(planned.positions.max()) + 1)
    reach = window if window is not None else 1 << 30
    assert told(planned, found, shape, reach) == visible(planned, reach)


def test_a_window_leaves_whole_tiles_out():
    pool = KVPool(KVShape(1, 1, 1), budget_bytes=80 * PAGE * 8)
    planned = plan([Row(np.zeros(8, np.int32), (span_of(pool, 4000),))])
    shape = Tiling(32, 64, 2)
    assert len(work_list(planned, shape, blocks=1, window=None).entries) == 63
    assert len(work_list(planned, shape, blocks=1, window=200).entries) == 4


def test_splits_share_the_work_evenly():
    pool = KVPool(KVShape(1, 1, 1), budget_bytes=80 * PAGE * 8)
    planned = plan([Row(np.zeros(8, np.int32), (span_of(pool, 1000),))])
    programs = work_list(planned, Tiling(32, 64, 4), blocks=1, window=None).programs
    tiles = programs[:, 1] - programs[:, 0] + (programs[:, 3] > programs[:, 2])
    assert sorted(tiles) == [4, 4, 4, 5]


def test_a_second_list_points_behind_the_first():
    pool = KVPool(KVShape(1, 1, 1), budget_bytes=80 * PAGE * 8)
    planned = plan([Row(np.zeros(8, np.int32), (span_of(pool, 200),))])
    alone = work_list(planned, Tiling(32, 64, 2), blocks=1, window=None)
    behind = work_list(planned, Tiling(32, 64, 2), blocks=1, window=None, base=10)
    assert (behind.programs[:, :2] == alone.programs[:, :2] + 10).all()
    assert (behind.programs[:, 2:] == alone.programs[:, 2:]).all()


def test_kept_tokens_go_behind_what_their_span_holds_and_others_nowhere():
    pool = KVPool(KVShape(1, 1, 1), budget_bytes=80 * PAGE * 8)
    policy, stream = span_of(pool, 70), span_of(pool, 60, first=70)
    stream.reserve(60 + 9)
    planned = plan([Row(np.zeros(12, np.int32), (policy, stream), stream, 9), Row(np.zeros(3, np.int32), (policy,))])
    slots = kept_slots(planned)
    assert slots[:9].tolist() == stream.slots(60, 69).tolist()
    assert (slots[9:] == -1).all()


@pytest.mark.parametrize("tokens", [16, 32, 64, 128, 192, 256, 384, 512, 768, 1024, 2048])
def test_a_bucket_fills_the_gpu_once_and_its_cut_depends_on_nothing_else(tokens: int):
    shape = tiling(tokens, 8, 132)
    programs = -(-tokens // shape.block) * shape.splits * 8
    assert shape == tiling(tokens, 8, 132)
    assert PAGE % shape.tile == 0
    assert programs <= 132 or shape.splits == 1
    assert programs > 64 or shape.splits == 16
