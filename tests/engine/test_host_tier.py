import numpy as np
import pytest
import torch
from written_kv import SHAPE, pool_of

from guardrail.engine.cope.host_tier import HostTier
from guardrail.engine.cope.kv import PAGE, KVPool, KVSpan


def span_of(pool: KVPool, pages: int, head: KVSpan | None = None) -> KVSpan:
    """Of random content, and with the whole of another one before it if asked."""
    span = KVSpan(pool)
    if head is not None:
        span.share_head(head, head.length)
    span.reserve(span.length + pages * PAGE)
    values = torch.randn(len(span.pages), SHAPE.layers, 2, SHAPE.heads, PAGE, SHAPE.head_dim)
    for page, value in list(zip(span.pages, values, strict=True))[span.length // PAGE :]:
        pool.blocks()[int(page)] = value.to(pool.kv.dtype)
    span.append(np.zeros(pages * PAGE, np.int32))
    return span


def content(span: KVSpan) -> torch.Tensor:
    return span.pool.kv[:, :, :, torch.as_tensor(span.slots(0, span.length))].clone()


def tier_of(pool: KVPool, pages: int) -> HostTier:
    return HostTier(pool, pages * pool.page_bytes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_what_comes_back_is_what_left_to_the_bit_and_may_lie_elsewhere(dtype):
    pool = KVPool(SHAPE, budget_bytes=8 * PAGE * SHAPE.bytes_per_token(dtype), dtype=dtype)
    tier, span = tier_of(pool, 4), span_of(pool, 3)
    before = content(span)
    assert tier.put("k", span)
    span.drop()
    pool.kv.fill_(0)
    span_of(pool, 1)
    back = KVSpan(pool)
    back.reserve(3 * PAGE)
    tier.write("k", back, range(3))
    back.append(np.zeros(3 * PAGE, np.int32))
    assert back.pages.tolist() != [0, 1, 2]
    assert torch.equal(content(back).view(torch.uint8), before.view(torch.uint8))
    assert tier.stamps("k").tolist() == pool.stamps[back.pages].tolist()


def test_a_page_that_two_share_is_kept_once_and_until_both_have_left():
    pool = pool_of(12)
    tier, first = tier_of(pool, 8), span_of(pool, 3)
    second = span_of(pool, 2, head=first)
    assert tier.put("first", first)
    assert tier.put("second", second)
    assert tier.nbytes == 5 * pool.page_bytes
    expected = content(second)
    tier.drop("first")
    assert tier.nbytes == 5 * pool.page_bytes
    pool.kv[:, :, :, torch.as_tensor(second.slots(0, second.length))] = 0.0
    tier.write("second", second, range(5))
    assert torch.equal(content(second), expected)
    tier.drop("second")
    tier.drop("second")
    assert (tier.nbytes, list(tier)) == (0, [])


def test_putting_what_is_there_costs_nothing_and_makes_it_the_last_to_leave():
    pool = pool_of(12)
    tier, spans = tier_of(pool, 4), {key: span_of(pool, 2) for key in "abc"}
    for key in "aba":
        assert tier.put(key, spans[key])
    assert (list(tier), tier.nbytes) == (["b", "a"], 4 * pool.page_bytes)
    assert tier.put("c", spans["c"])
    assert list(tier) == ["a", "c"]
    for key in "ac":
        tier.drop(key)
    assert tier.nbytes == 0


def test_what_does_not_fit_is_not_kept_and_what_is_held_does_not_leave_for_it():
    pool = pool_of(12)
    tier, small, large = tier_of(pool, 4), span_of(pool, 2), span_of(pool, 5)
    assert tier.put("small", small)
    with tier.held("small"):
        assert not tier.put("other", span_of(pool, 3))
    assert list(tier) == ["small"]
    assert not tier.put("large", large)
    assert list(tier) == ["small"]


def test_a_page_written_anew_is_not_taken_for_what_it_held():
    pool = pool_of(4)
    tier, span = tier_of(pool, 8), span_of(pool, 2)
    tier.put("old", span)
    span.drop()
    new = span_of(pool, 2)
    tier.put("new", new)
    expected = content(new)
    assert tier.nbytes == 4 * pool.page_bytes
    pool.kv.fill_(0.0)
    tier.write("new", new, range(2))
    assert torch.equal(content(new), expected)


def test_the_budget_is_many_small_tensors_and_none_of_it_is_over(monkeypatch):
    monkeypatch.setattr("guardrail.engine.cope.host_tier._SEGMENT_BYTES", 3 * pool_of(2).page_bytes)
    pool = pool_of(12)
    tier = tier_of(pool, 8)
    assert [len(segment) for segment in tier._memory] == [3, 3, 2]
    spans = {key: span_of(pool, 4) for key in "ab"}
    expected = {key: content(span) for key, span in spans.items()}
    assert all(tier.put(key, span) for key, span in spans.items())
    pool.kv.fill_(0.0)
    for key, span in spans.items():
        tier.write(key, span, range(4))
        assert torch.equal(content(span), expected[key])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_cuda_device_the_copies_are_in_pinned_memory_and_exact():
    pool = KVPool(SHAPE, budget_bytes=8 * PAGE * SHAPE.bytes_per_token(torch.bfloat16), dtype=torch.bfloat16, device="cuda")
    tier, span = tier_of(pool, 4), span_of(pool, 3)
    assert all(segment.is_pinned() for segment in tier._memory)
    before = content(span)
    tier.put("k", span)
    pool.kv.zero_()  # queued behind the copy: what was copied is what stood there before
    tier.write("k", span, range(3))
    assert torch.equal(content(span), before)
