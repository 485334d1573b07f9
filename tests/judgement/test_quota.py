"""Buckets and quotas: whatever the calls and the clock do, nobody gets more than was agreed."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail.bucket import Bucket
from guardrail.quota import Ceilings, Quota

rates = st.floats(0.01, 1_000)
bursts = st.floats(0.5, 500)
steps = st.lists(st.tuples(st.floats(-5, 20), st.floats(0, 50)), max_size=60)


@settings(deadline=None)
@given(rates, bursts, steps)
def test_no_stretch_of_time_gives_more_than_the_burst_and_what_it_gained(
    per_s: float, burst: float, steps: list[tuple[float, float]]
) -> None:
    bucket = Bucket(per_s, burst, now=100.0)
    now, latest = 100.0, 100.0
    taken: list[tuple[float, float]] = []
    for pause, amount in steps:
        now += pause
        latest = max(latest, now)
        if bucket.take(amount, now) == 0:
            taken.append((latest, amount))
    for first in range(len(taken)):
        got = 0.0
        for at, amount in taken[first:]:
            got += amount
            assert got <= (burst + per_s * (at - taken[first][0])) * (1 + 1e-9) + 1e-9


@settings(deadline=None)
@given(rates, bursts, st.floats(0, 600), steps)
def test_what_was_refused_can_be_had_after_the_time_it_names(
    per_s: float, burst: float, amount: float, steps: list[tuple[float, float]]
) -> None:
    bucket = Bucket(per_s, burst, now=0.0)
    now = 0.0
    for pause, spent in steps:
        now += max(0.0, pause)
        bucket.take(spent, now)
    held = bucket.held(now)
    wait_s = bucket.take(amount, now)
    if amount > burst:
        assert wait_s == math.inf
    elif wait_s:
        assert bucket.held(now) == held
        assert bucket.take(amount, now + wait_s * (1 + 1e-9) + 1e-9) == 0
    else:
        assert bucket.held(now) == held - amount


@pytest.mark.parametrize(("per_s", "burst"), [(0, 1), (1, 0), (-1, 1), (math.inf, 1), (math.nan, 1), (1, math.nan)])
def test_a_bucket_that_would_limit_nothing_is_refused(per_s: float, burst: float) -> None:
    with pytest.raises(ValueError, match="more than nothing"):
        Bucket(per_s, burst, now=0.0)


def test_what_is_given_to_a_full_bucket_is_lost() -> None:
    bucket = Bucket(1e-9, 2.0, now=0.0)
    bucket.take(2.0, 0.0)
    bucket.give(1.5, 0.0)
    assert bucket.held(0.0) == 1.5
    bucket.give(5.0, 0.0)
    assert bucket.held(0.0) == 2.0


def test_places_rates_and_characters_are_counted_and_refusals_cost_nothing() -> None:
    quota = Quota(Ceilings(requests_per_s=2, burst=3, concurrency=2, characters_per_minute=60), now=0.0)
    assert quota.enter(0.0) is None
    assert quota.enter(0.0) is None
    crowded = quota.enter(0.0)
    assert crowded is not None
    assert crowded.kind == "concurrency"
    quota.leave()
    assert quota.enter(0.0) is None  # the third of the burst: the refused one has not spent it
    quota.leave()
    fast = quota.enter(0.0)
    assert fast is not None
    assert (fast.kind, fast.retry_after_s) == ("requests", 0.5)
    assert quota.enter(0.5) is None
    assert quota.read(60, 0.5) is None
    long = quota.read(30, 0.5)
    assert long is not None
    assert (long.kind, long.retry_after_s) == ("characters", 30.0)
    left = {allowance.kind: allowance for allowance in quota.allowances(15.5)}
    assert (left["requests"].limit, left["requests"].remaining) == (3, 3)
    assert (left["characters"].remaining, left["characters"].reset_s) == (15, 45.0)


@settings(deadline=None)
@given(st.integers(1, 64), rates, st.integers(1, 500), st.integers(1, 500), st.integers(1, 10_000))
def test_the_shares_of_all_workers_are_no_more_than_the_whole(workers: int, per_s: float, burst: int, places: int, characters: int) -> None:
    whole = Ceilings(per_s, burst, places, 4096, 100, characters, 256)
    share = whole.share(workers)
    assert share.requests_per_s is not None
    assert share.concurrency is not None
    assert share.characters_per_minute is not None
    assert share.requests_per_s * workers == pytest.approx(per_s)
    assert share.burst * workers <= max(burst, workers) * (1 + 1e-9)
    assert share.concurrency * workers <= max(places, workers)
    assert share.characters_per_minute * workers <= max(characters, workers)
    assert share.longest_prompt == whole.longest_prompt
    assert (share.body_bytes, share.prompt_characters, share.answer_tokens) == (4096, 100, 256)
    assert Ceilings().share(workers) == Ceilings()


@pytest.mark.parametrize(("prompt", "at_once"), [(None, 1000), (1000, 1000), (300, 300), (100, 250)])
def test_a_share_divides_the_rate_of_characters_and_never_the_longest_prompt(prompt: int | None, at_once: int) -> None:
    share = Ceilings(prompt_characters=prompt, characters_per_minute=1000).share(4)
    quota = Quota(share, now=0.0)
    assert share.longest_prompt == (prompt or 1000)
    assert [left.limit for left in quota.allowances(0.0)] == [at_once]
    assert quota.read(at_once, 0.0) is None
    wait = quota.read(100, 0.0)
    assert wait is not None
    assert wait.retry_after_s == pytest.approx(24.0)  # 250 a minute
