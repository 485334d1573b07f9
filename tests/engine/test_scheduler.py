"""The scheduler's laws: nothing is lost or run twice, batches are bounded, order, shares, and nobody waits for ever."""

import itertools
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail.engine.cope.schedule import Batch, Limits, Scheduler
from guardrail.engine.cope.work import Place, Work

INPUT, STREAM, OUTPUT, BACKGROUND = range(4)
FAR = 1e9


class Bench:
    """A scheduler, the prefixes that are resident, and what has been run so far."""

    def __init__(self, limits: Limits, resident: dict[str, int] | None = None) -> None:
        self.scheduler: Scheduler[Work] = Scheduler(limits)
        self.limits = limits
        self.missing = dict(resident or {})  # prefix -> tokens to fill; not in here: resident
        self.now = 0.0
        self.sizes: dict[Work, int] = {}
        self.run_tokens: Counter[Work] = Counter()
        self.ended: dict[Work, str] = {}

    def submit(self, *works: Work) -> None:
        for work in works:
            self.sizes[work] = work.tokens
            self.scheduler.submit(work, self.now, missing=self.missing.get(work.prefix, 0))

    def cancel(self, work: Work) -> None:
        if work not in self.ended:
            self.scheduler.cancel(work)
            self.ended[work] = "cancelled"

    def form(self) -> Batch[Work]:
        """The next batch, as it is handed to whoever runs it."""
        for work in self.scheduler.late(self.now):
            assert work not in self.ended
            self.ended[work] = "late"
        batch = self.scheduler.schedule(self.now)
        self.check(batch)
        self.now += 0.01
        return batch

    def step(self) -> Batch[Work]:
        """One batch: everything in it succeeds that stands on a resident prefix."""
        batch = self.form()
        for portion in batch.portions:
            work = portion.work
            if missing := self.missing.get(work.prefix):
                self.run_tokens[work] = 0
                self.scheduler.wait(work, self.now, tokens=self.sizes[work], missing=missing)
                continue
            self.run_tokens[work] += portion.tokens
            if portion.last:
                self.end(work)
            else:
                self.scheduler.again(work, work.tokens - portion.tokens, self.now)
        if batch.fill is not None:
            self.fill(batch.fill, batch.chunk)
        return batch

    def refuse(self, how: str) -> None:
        """One batch that does not run: there was no room, its prefixes were evicted, or sizes had been estimated wrongly."""
        batch = self.form()
        for work in (portion.work for portion in batch.portions):
            self.run_tokens[work] = 0  # one begun in portions begins again
            if how == "defer":
                self.scheduler.defer(work, self.now + 0.03, tokens=self.sizes[work])
            elif how == "evict":
                missing = self.missing.setdefault(work.prefix, 30)
                self.scheduler.wait(work, self.now, tokens=self.sizes[work], missing=missing)
            else:
                self.sizes[work] += 1
                self.scheduler.put_back(work, self.now, tokens=self.sizes[work])
        if batch.fill is not None and how == "defer":
            self.scheduler.block(batch.fill, self.now + 0.02)

    def end(self, work: Work) -> None:
        assert work not in self.ended
        self.ended[work] = "run"
        self.scheduler.done(work)

    def fill(self, prefix: str, tokens: int) -> None:
        self.missing[prefix] -= tokens
        self.scheduler.filled(prefix, tokens)
        if self.missing[prefix] <= 0:
            del self.missing[prefix]
            for work in self.scheduler.warm(prefix, self.now):
                if not work.tokens:
                    self.end(work)

    def check(self, batch: Batch[Work]) -> None:
        works = [portion.work for portion in batch.portions]
        assert batch.tokens <= self.limits.batch
        assert len(set(works)) == len(works)
        assert all(work not in self.ended and work.deadline > self.now for work in works), "a work ran that is gone or late"
        lanes = Counter(work.lane for work in works if work.lane is not None)
        assert all(count == 1 for count in lanes.values())
        assert all(portion.last or portion.work.tokens > self.limits.batch for portion in batch.portions)
        assert bool(batch.chunk) == (batch.fill is not None)
        assert batch.tokens or not self.runnable()

    def runnable(self) -> list[Work]:
        places = (Place.READY, Place.NEXT)
        return [entry[2] for entry in self.scheduler._deadlines if entry[2].place in places]

    def drain(self, most: int = 10_000) -> None:
        for _ in range(most):
            if not len(self.scheduler):
                return
            self.step()
        raise AssertionError(f"{len(self.scheduler)} works are left")


def rows(count: int, tokens: int = 100, **named: object) -> list[Work]:
    return [Work("p", tokens, FAR + number, **named) for number in range(count)]


works = st.builds(
    Work,
    prefix=st.sampled_from(["p", "q", "cold", "colder"]),
    tokens=st.one_of(st.integers(1, 80), st.integers(0, 400)),
    deadline=st.one_of(st.just(FAR), st.floats(0.02, 0.5)),
    level=st.integers(0, 3),
    tenant=st.sampled_from(["a", "b", "c"]),
    lane=st.one_of(st.none(), st.sampled_from(["s", "t"])),
)
limits = st.builds(
    Limits,
    batch=st.integers(2, 128),
    chunk=st.integers(1, 64),
    quantum=st.integers(1, 64),
    patience_s=st.sampled_from([0.0, 0.05, 1e9]),
)
moves = st.lists(st.one_of(works, st.sampled_from(["step", "cancel", "put back", "evict", "defer"])), max_size=60)


@settings(max_examples=300, deadline=None)
@given(limits, moves)
def test_nothing_is_lost_and_nothing_runs_twice(limits: Limits, moves: list[Work | str]):
    bench = Bench(limits, resident={"cold": 150, "colder": 700})
    submitted: list[Work] = []
    for move in moves:
        match move:
            case Work():
                move.tokens = move.tokens or int(move.prefix not in bench.missing)
                bench.submit(move)
                submitted.append(move)
            case "step":
                bench.step()
            case "cancel" if submitted:
                bench.cancel(submitted[len(submitted) // 2])
            case "put back" | "evict" | "defer":
                bench.refuse(move)
    bench.drain()
    assert set(bench.ended) == set(submitted)
    assert all(bench.run_tokens[work] == bench.sizes[work] for work in submitted if bench.ended[work] == "run")
    assert all(work.place is Place.GONE and not work.lanes for work in submitted)
    assert bench.scheduler.queued_tokens == 0
    assert bench.scheduler.fill_tokens == 0
    assert bench.scheduler.wake_at() is None or bench.scheduler.late(2 * FAR) == []
    assert not bench.scheduler._busy


LOOKED_AT_OF_ONE_TENANT = 8  # so many of a tenant's works that do not fit are looked past in a batch


@settings(max_examples=200, deadline=None)
@given(st.lists(st.builds(Work, prefix=st.just("p"), tokens=st.integers(1, 100), deadline=st.floats(1, 100), level=st.integers(0, 3))))
def test_a_batch_goes_by_level_and_then_by_deadline(works: list[Work]):
    """What was left out does not come before what was taken, unless it did not fit any more, or stood behind as many that did not."""
    bench = Bench(Limits(batch=250, patience_s=1e9))
    bench.submit(*works)
    taken = [portion.work for portion in bench.step().portions]
    ranks = [(work.level, work.deadline) for work in taken]
    assert ranks == sorted(ranks)
    left = 250 - sum(work.tokens for work in taken)
    for work in set(works) - set(taken):
        before = sum(other.tokens for other in taken if (other.level, other.deadline) <= (work.level, work.deadline))
        ahead = [other for other in works if other not in taken and other.level == work.level and other.deadline <= work.deadline]
        assert before + work.tokens > 250 or work.tokens > left or len(ahead) >= LOOKED_AT_OF_ONE_TENANT


def test_a_batch_is_full_while_there_is_work():
    bench = Bench(Limits(batch=1000))
    bench.submit(*rows(25, 100))
    assert [bench.step().tokens for _ in range(3)] == [1000, 1000, 500]


def test_a_row_that_does_not_fit_is_first_in_the_next_batch():
    bench = Bench(Limits(batch=1000, patience_s=1e9))
    big = Work("p", 1000, deadline=FAR, level=BACKGROUND)
    bench.submit(*rows(2, 100), big)
    assert big not in {portion.work for portion in bench.step().portions}
    bench.submit(*rows(20, 100))
    assert [portion.work for portion in bench.step().portions] == [big]


@pytest.mark.parametrize("level", [INPUT, BACKGROUND])
def test_a_row_larger_than_a_batch_is_run_in_portions_beside_others(level: int):
    bench = Bench(Limits(batch=512))
    large = Work("p", 3000, FAR, level=level, tenant="a")
    small = rows(10, 50, tenant="b")
    bench.submit(large, *small)
    bench.drain()
    assert bench.run_tokens[large] == 3000
    assert set(bench.ended.values()) == {"run"}


def test_of_several_large_rows_of_one_level_one_is_under_way_at_a_time():
    bench = Bench(Limits(batch=100))
    large = [Work("p", 300, FAR, tenant=name) for name in "abc"]
    bench.submit(*large)
    order = [portion.work for _ in range(9) for portion in bench.step().portions]
    assert [work for work, _ in itertools.groupby(order)] == [*dict.fromkeys(order)]
    assert set(order) == set(large)


def test_rows_of_one_stream_and_prefix_never_share_a_batch_and_keep_their_order():
    bench = Bench(Limits(batch=1000))
    steps = [Work("p", 10, FAR + number, lane=("s", "p")) for number in range(5)]
    other = [Work("q", 10, FAR + number, lane=("s", "q")) for number in range(5)]
    bench.submit(*reversed(steps), *reversed(other))
    batches = [{portion.work for portion in bench.step().portions} for _ in range(5)]
    assert batches == [{steps[number], other[number]} for number in range(5)]


def served_in_contention(sizes: list[int], limits: Limits, *, urgent: bool = False) -> dict[str, int]:
    """Tokens run for each tenant (named by its place) while all of them always have rows of their size waiting."""
    bench = Bench(limits)
    served, waiting = Counter[str](), Counter[str]()
    for number in range(40):
        for place, size in enumerate(sizes):
            while waiting[str(place)] < 2 * limits.batch:
                deadline = 1e6 if urgent and place == 0 else FAR
                bench.submit(Work("p", size, deadline + number, tenant=str(place)))
                waiting[str(place)] += size
        for portion in bench.step().portions:
            served[portion.work.tenant] += portion.tokens
            waiting[portion.work.tenant] -= portion.tokens
    return dict(served)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(15, 100), min_size=2, max_size=4), st.integers(1, 300), st.booleans())
def test_tenants_share_a_level_equally_whatever_their_rows_and_deadlines(sizes: list[int], quantum: int, urgent: bool):
    served = served_in_contention(sizes, Limits(batch=400, quantum=quantum, patience_s=1e9), urgent=urgent)
    assert max(served.values()) - min(served.values()) <= 2 * quantum + 400


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(15, 400), min_size=2, max_size=4), st.integers(1, 300))
def test_rows_that_are_hard_to_pack_cost_their_tenant_half_its_share_at_most(sizes: list[int], quantum: int):
    served = served_in_contention(sizes, Limits(batch=400, quantum=quantum, patience_s=1e9))
    assert min(served.values()) >= 0.45 * sum(served.values()) / len(sizes) - 400


def test_room_that_nobody_else_could_use_is_not_held_against_a_tenant():
    bench = Bench(Limits(batch=300, patience_s=1e9))
    bench.submit(*rows(200, 160, tenant="wide"), *rows(200, 160, tenant="broad"), *rows(4000, 10, tenant="narrow"))
    for _ in range(100):
        bench.step()
    bench.submit(*(Work("p", 10, deadline=1e6, tenant=name) for _ in range(1000) for name in ("wide", "broad")))
    served = Counter[str]()
    for _ in range(20):
        for portion in bench.step().portions:
            served[portion.work.tenant] += portion.tokens
    assert served["narrow"] >= 20 * 300 / 3 - 2 * 300


def test_a_tenant_who_leaves_and_comes_back_has_no_second_share():
    bench = Bench(Limits(batch=100, quantum=100, patience_s=1e9))
    patient = rows(50, 100, tenant="patient")
    bench.submit(*patient)
    served: Counter[str] = Counter()
    for _ in range(40):
        bench.submit(Work("p", 100, deadline=1e6, tenant="hasty"))
        for portion in bench.step().portions:
            served[portion.work.tenant] += portion.tokens
    assert abs(served["patient"] - served["hasty"]) <= 200


@pytest.mark.parametrize("level", [STREAM, OUTPUT, BACKGROUND])
@pytest.mark.parametrize("size", [10, 900])
def test_no_level_starves_however_much_comes_above_it(level: int, size: int):
    bench = Bench(Limits(batch=1000, patience_s=0.2), resident={"cold": 10**6})
    low = Work("p", size, FAR, level=level)
    bench.submit(low, Work("cold", 0, FAR, level=BACKGROUND))
    while low not in bench.ended:
        bench.submit(*rows(30, 100, level=INPUT))
        bench.step()
        assert bench.now < 0.2 + 4 * 0.01


def test_a_level_passed_over_gets_no_more_than_its_slice_at_once():
    bench = Bench(Limits(batch=1000, patience_s=0.05))
    bench.submit(*rows(200, 100, level=INPUT), *rows(200, 100, level=OUTPUT))
    low = [sum(p.tokens for p in bench.step().portions if p.work.level == OUTPUT) for _ in range(15)]
    assert max(low) <= 200
    assert 0 < sum(low) <= 4 * 200


def test_cancelled_and_late_rows_cost_nothing():
    bench = Bench(Limits(batch=1000))
    wanted, cancelled, late = rows(2), rows(9), [Work("p", 100, deadline=0.5) for _ in range(9)]
    bench.submit(*wanted, *cancelled, *late)
    for work in cancelled:
        bench.cancel(work)
    bench.now = 0.5  # a deadline has passed at its instant
    batch = bench.step()
    assert [portion.work for portion in batch.portions] == wanted
    assert {bench.ended[work] for work in late} == {"late"}
    assert bench.scheduler.queued_tokens == 0


def test_rows_that_nobody_wants_leave_no_memory_behind():
    bench = Bench(Limits(batch=1000), resident={"cold": 100})
    for number in range(20_000):
        work = Work(("p", "cold")[number % 2], 10, FAR, tenant=f"{number % 7}", lane=number % 3)
        bench.submit(work)
        bench.cancel(work)
    heaps = [len(share.heap) for queue in bench.scheduler._queues for share in queue._shares.values()]
    assert sum(heaps) + len(bench.scheduler._deadlines) <= 2 * 257
    assert len(bench.scheduler) == 0


def test_rows_wait_for_a_cold_prefix_which_is_filled_in_chunks_beside_others():
    bench = Bench(Limits(batch=1000, chunk=200), resident={"cold": 1000})
    waiting = Work("cold", 50, FAR)
    bench.submit(waiting, *rows(100, 100))
    batches = [bench.step() for _ in range(5)]
    assert [batch.chunk for batch in batches] == [200] * 5
    assert all(batch.tokens == 1000 for batch in batches)
    assert waiting in {portion.work for portion in bench.step().portions}


def test_a_chunk_is_large_only_when_nothing_else_was_queued_lately():
    bench = Bench(Limits(batch=1000, chunk=200), resident={"cold": 10**6})
    bench.submit(Work("cold", 50, FAR))
    assert bench.step().chunk == 1000
    bench.submit(*rows(1))
    assert [bench.step().chunk for _ in range(6)] == [200, 200, 200, 200, 1000, 1000]


@pytest.mark.parametrize("size", [1000, 990, 700])
def test_rows_of_any_size_and_prefill_both_go_on(size: int):
    bench = Bench(Limits(batch=1000, chunk=300, patience_s=1e9), resident={"cold": 10**6})
    bench.submit(Work("cold", 1, FAR), *rows(10, size))
    seen = [bench.step() for _ in range(20)]
    assert sum(len(batch.portions) for batch in seen) == 10
    assert all(one.chunk + other.chunk >= 300 for one, other in itertools.pairwise(seen))


def test_small_rows_of_others_fill_what_a_tenants_large_ones_leave():
    bench = Bench(Limits(batch=300, patience_s=1e9))
    bench.submit(*rows(200, 160, tenant="wide"), *(Work("p", 10, 2 * FAR, tenant="narrow") for _ in range(100)))
    assert [bench.step().tokens for _ in range(7)] == [300] * 7


def test_one_prefix_is_filled_after_the_other_the_most_urgent_level_first():
    bench = Bench(Limits(batch=100, chunk=100, patience_s=1e9), resident={"slow": 300, "later": 300, "fast": 300})
    bench.submit(Work("slow", 0, 5.0, level=OUTPUT), Work("later", 0, 4.0, level=OUTPUT))
    order = [bench.step().fill]
    bench.submit(Work("fast", 0, 9.0, level=INPUT))
    order += [bench.step().fill for _ in range(8)]
    assert order == ["later", *["fast"] * 3, *["later"] * 2, *["slow"] * 3]


def test_a_prefix_that_is_begun_is_finished_before_one_of_its_level():
    bench = Bench(Limits(batch=100, chunk=100), resident={"begun": 300, "hurried": 300})
    bench.submit(Work("begun", 0, 9.0))
    order = [bench.step().fill]
    bench.submit(Work("hurried", 0, 5.0))
    order += [bench.step().fill for _ in range(5)]
    assert order == [*["begun"] * 3, *["hurried"] * 3]


def test_tenants_take_turns_in_having_prefixes_filled():
    prefixes = {f"a{number}": 100 for number in range(6)} | {"b0": 100, "b1": 100}
    bench = Bench(Limits(batch=100, chunk=100), resident=prefixes)
    bench.submit(*(Work(name, 0, FAR + number, tenant=name[0]) for number, name in enumerate(prefixes)))
    order = "".join((bench.step().fill or "?")[0] for _ in range(8))
    assert order == "ababaaaa"


def test_a_prefix_nobody_waits_for_any_more_is_not_filled():
    bench = Bench(Limits(batch=100, chunk=100), resident={"cold": 1000})
    work = Work("cold", 10, FAR)
    bench.submit(work)
    assert bench.step().fill == "cold"
    bench.cancel(work)
    assert bench.step().fill is None
    assert not bench.scheduler.wanted("cold")


def test_who_waits_for_a_prefix_that_cannot_be_filled_is_handed_back():
    bench = Bench(Limits(batch=100), resident={"cold": 1000})
    waiting = [Work("cold", 10, FAR) for _ in range(3)]
    bench.submit(*waiting)
    assert bench.scheduler.broken("cold") == waiting
    assert len(bench.scheduler) == 0


def test_a_deferred_row_comes_back_at_its_time_and_not_before():
    bench = Bench(Limits(batch=100))
    work = Work("p", 10, deadline=9.0)
    bench.submit(work)
    bench.scheduler.schedule(bench.now)
    bench.scheduler.defer(work, 2.0, tokens=10)
    assert bench.scheduler.schedule(1.9).portions == ()
    assert bench.scheduler.wake_at() == 2.0
    assert [portion.work for portion in bench.scheduler.schedule(2.0).portions] == [work]


@pytest.mark.parametrize("lane", [None, "s"])
def test_what_is_deferred_is_in_nobodys_way(lane: str | None):
    bench = Bench(Limits(batch=100))
    first, second = (Work("p", 10 if lane else 300, FAR + number, lane=lane) for number in range(2))
    bench.submit(first, second)
    assert [portion.work for portion in bench.scheduler.schedule(0.0).portions] == [first]
    bench.scheduler.defer(first, 1.0, tokens=first.tokens)
    assert [portion.work for portion in bench.scheduler.schedule(0.1).portions] == [second]


def test_the_scheduler_needs_no_tensors():
    code = "import sys, guardrail.engine.cope.schedule; print({'torch', 'numpy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == "set()\n"


@pytest.mark.parametrize("wrong", [{"batch": 1}, {"chunk": 0}, {"quantum": 0}, {"patience_s": -1.0}])
def test_impossible_limits_are_refused(wrong: dict[str, float]):
    with pytest.raises(ValueError, match="two tokens"):
        Limits(**wrong)
