import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from written_kv import pool_of

from guardrail.engine.cope.kv import PAGE, KVSpan, OutOfPages


def ids(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int32)


def span_of(pool, count: int) -> KVSpan:
    span = KVSpan(pool)
    span.reserve(count)
    span.append(ids(count))
    return span


@given(length=st.integers(1, 400), head=st.integers(0, 6), grow=st.integers(1, 200), cut=st.integers(0, 400))
def test_whoever_writes_into_a_page_owns_it_alone(length, head, grow, cut):
    """However spans share heads and are cut: what they may still do leaves the other one's pages alone."""
    pool = pool_of(40)
    old, new = span_of(pool, length), KVSpan(pool)
    new.share_head(old, min(head, length // PAGE) * PAGE)
    for span in (old, new):
        for change in (lambda span: span.truncate(min(cut, span.length)), lambda span: span.reserve(span.length + grow)):
            try:
                change(span)
            except ValueError:
                continue
        writable = span.pages[span.length // PAGE :]  # those that the next tokens land in
        if len(writable) * PAGE >= span.length % PAGE + grow:
            assert all(pool.owners(int(page)) == 1 for page in writable)
    old.drop()
    new.drop()
    assert pool.free_pages == 40


def test_a_cut_inside_a_shared_page_is_refused_and_changes_nothing():
    pool = pool_of(8)
    old, new = span_of(pool, 200), KVSpan(pool)
    new.share_head(old, 128)
    with pytest.raises(ValueError, match="shares"):
        new.truncate(100)
    assert (new.length, len(new.pages), pool.used_pages) == (128, 2, 4)
    new.truncate(64)
    assert (new.length, pool.owners(int(old.pages[0])), pool.owners(int(old.pages[1]))) == (64, 2, 1)


def test_a_span_does_not_grow_inside_a_page_that_somebody_else_owns():
    pool = pool_of(8)
    span = span_of(pool, 70)
    pool.share(span.pages[1:])
    with pytest.raises(ValueError, match="shares"):
        span.reserve(71)
    assert pool.used_pages == 2


def test_tokens_without_reserved_places_are_not_counted():
    span = span_of(pool_of(4), 64)
    with pytest.raises(ValueError, match="reserved"):
        span.append(ids(1))
    assert span.length == 64


def test_a_negative_length_cuts_nothing():
    span = span_of(pool_of(4), 70)
    with pytest.raises(ValueError, match="-1"):
        span.truncate(-1)
    assert span.length == 70


def test_a_reservation_that_fails_changes_nothing():
    pool = pool_of(3)
    span = span_of(pool, 64)
    with pytest.raises(OutOfPages) as short:
        span.reserve(64 * 4)
    assert (short.value.needed, short.value.free, len(span.pages)) == (3, 2, 1)


def test_pages_are_found_by_what_they_hold_and_not_once_they_are_anothers():
    pool = pool_of(4)
    span = span_of(pool, 192)
    stamps = pool.stamps[span.pages].copy()
    assert pool.holding(stamps).tolist() == span.pages.tolist()
    span.truncate(64)
    assert pool.holding(stamps).tolist() == [span.pages[0], -1, -1]
    span.drop()
    other = span_of(pool, 192)
    assert pool.holding(stamps).tolist() == [-1, -1, -1]
    assert not set(pool.stamps[other.pages]) & set(stamps)


def test_the_pool_by_page_is_the_same_memory():
    pool = pool_of(3)
    pool.blocks()[1, 0, 1, 0, 5] = 7.0
    assert (pool.kv[0, 1, 0, PAGE + 5] == 7.0).all()
    assert pool.kv.sum() == 14.0
