import numpy as np
import pytest
from written_kv import Failure, WritingRunner, fill, holds, owned_as_booked, pool_of

from guardrail.engine.cope.kv import PAGE, OutOfPages
from guardrail.engine.cope.messages import Prefix
from guardrail.engine.cope.prefixes import PrefixStore, State
from guardrail.engine.cope.runner import execute
from guardrail.errors import ClassifierError

RANDOM = np.random.default_rng(0)


def ids(count: int) -> np.ndarray:
    return RANDOM.integers(3, 500, count, dtype=np.int32)


def store_of(pages: int, *, host: int = 0, floors: dict[str, int] | None = None, **settings: int) -> PrefixStore:
    pool = pool_of(pages)
    floors = {tenant: count * pool.page_bytes for tenant, count in (floors or {}).items()}
    return PrefixStore(pool, host_bytes=host * pool.page_bytes, floors=floors, **settings)


def resident(store: PrefixStore, **sizes: int) -> None:
    """Policies of so many pages each, the tenant being the first part of the name (`a_2`), filled in this order."""
    for name, pages in sizes.items():
        store.register(Prefix(name, ids(pages * PAGE - 7), tenant=name.split("_")[0]))
        assert fill(store, name).done


def states(store: PrefixStore, *keys: str) -> str:
    return " ".join(store.state(key).value for key in keys)


def test_a_policy_goes_from_unknown_through_cold_and_filling_to_ready():
    store = store_of(8)
    runner = WritingRunner(store.pool)
    assert store.state("k") is State.UNKNOWN
    assert not store.known("k")
    store.register(Prefix("k", ids(150)))
    assert store.state("k") is State.COLD
    assert store.known("k")
    assert store.acquire("k", "*") is None
    filling = store.fill("k")
    assert store.state("k") is State.FILLING
    chunks = []
    while (row := filling.row(64)) is not None:
        chunks.append(row.keep)
        assert (filling.remaining, store.acquire("k", "*")) == (150 - sum(chunks[:-1]), None)
        execute(runner, [row])
        filling.settle()
    assert (chunks, filling.done, store.state("k")) == ([64, 64, 22], True, State.READY)
    span = store.acquire("k", "*")
    assert (span.length, span.pins, holds(span)) == (150, 1, True)


def test_filling_twice_at_once_is_one_filling_and_filling_what_is_ready_is_done():
    store = store_of(8)
    store.register(Prefix("k", ids(100)))
    assert store.fill("k") is store.fill("k")
    fill(store, "k")
    assert store.fill("k").done
    assert store.fill("k").row(10) is None
    assert store.pool.used_pages == 2


def test_what_is_not_known_cannot_be_filled():
    with pytest.raises(ClassifierError, match="prepare") as refused:
        store_of(4).fill("k")
    assert refused.value.code == "not_prepared"


@pytest.mark.parametrize(
    ("second", "code"), [(Prefix("k", ids(5 * PAGE)), "too_long"), (Prefix("k", ids(0)), "malformed"), (Prefix("k", ids(50)), "malformed")]
)
def test_a_policy_that_cannot_be_served_is_refused_at_once(second, code):
    store = store_of(4)
    store.register(Prefix("k", ids(40)))
    with pytest.raises(ClassifierError) as refused:
        store.register(second)
    assert refused.value.code == code


def test_the_least_recently_used_leaves_first():
    store = store_of(6)
    resident(store, a=2, b=2, c=2)
    store.release(store.acquire("a", "a"))
    store.make_room(1, tenant="*")
    assert states(store, "a", "b", "c") == "ready cold ready"
    store.make_room(4, tenant="*")
    assert states(store, "a", "b", "c") == "ready cold cold"


def test_who_need_not_leave_stays():
    store = store_of(20)
    resident(store, small=1, big=15, last=4)
    store.make_room(10, tenant="*")
    assert states(store, "small", "big", "last") == "ready cold ready"


def test_what_is_in_use_is_never_evicted_and_room_that_cannot_be_made_costs_nobody_anything():
    store = store_of(6)
    resident(store, a=2, b=2, c=2)
    pinned = [store.acquire(key, "*") for key in "ac"]
    with pytest.raises(OutOfPages) as short:
        store.make_room(3, tenant="*")
    assert (short.value.needed, short.value.free) == (3, 0)
    assert states(store, "a", "b", "c") == "ready ready ready"
    store.make_room(2, tenant="*")
    assert all(holds(span) for span in pinned)
    for span in pinned:
        store.release(span)
    store.make_room(6, tenant="*")
    assert store.pool.used_pages == 0


def test_a_span_released_twice_is_a_defect():
    store = store_of(4)
    resident(store, a=1)
    span = store.acquire("a", "a")
    store.release(span)
    with pytest.raises(ValueError, match="acquired"):
        store.release(span)


def test_another_tenants_use_does_not_evict_below_the_floor_and_ones_own_does():
    store = store_of(10, floors={"a": 4})
    resident(store, a_1=2, a_2=2, a_3=2, b_1=4)
    store.make_room(2, tenant="b")  # a stands above its floor: its oldest leaves
    assert states(store, "a_1", "a_2", "a_3", "b_1") == "cold ready ready ready"
    store.make_room(4, tenant="b")  # now at the floor: b pays itself
    assert states(store, "a_2", "a_3", "b_1") == "ready ready cold"
    with pytest.raises(OutOfPages):
        store.make_room(7, tenant="b")
    store.make_room(10, tenant="a")
    assert store.pool.used_pages == 0


def test_a_shared_policy_has_the_floor_of_all():
    store = store_of(6, floors={"*": 3})
    store.register(Prefix("shared", ids(3 * PAGE)))
    fill(store, "shared")
    resident(store, a=3)
    store.make_room(2, tenant="a")
    assert states(store, "shared", "a") == "ready cold"


def test_a_shared_policy_is_nobodys_own_however_often_a_tenant_uses_it():
    store = store_of(4, floors={"b": 2})
    store.register(Prefix("shared", ids(2 * PAGE)))
    fill(store, "shared")
    store.release(store.acquire("shared", "b"))
    resident(store, c=2)
    store.make_room(2, tenant="c")
    assert states(store, "shared", "c") == "cold ready"


def test_a_policy_of_two_tenants_counts_for_the_floors_of_both():
    store = store_of(6, floors={"a": 2, "b": 2})
    tokens = ids(2 * PAGE)
    for tenant in "ab":
        store.register(Prefix("k", tokens, tenant=tenant))
    fill(store, "k")
    resident(store, c=2, d=2)
    with pytest.raises(OutOfPages):
        store.make_room(5, tenant="a")
    assert states(store, "k", "c", "d") == "ready ready ready"


def test_a_tenant_that_uses_anothers_policy_has_it_under_its_floor():
    store = store_of(4, floors={"b": 2})
    resident(store, a=2, c=2)
    store.release(store.acquire("a", "b"))
    store.make_room(2, tenant="c")
    assert states(store, "a", "c") == "ready cold"


def test_a_new_version_takes_the_room_of_the_old_ones_tenants():
    store = store_of(4, floors={"b": 4})
    store.register(Prefix("old", ids(4 * PAGE), tenant=""))
    fill(store, "old")
    store.release(store.acquire("old", "b"))
    store.register(Prefix("stranger", ids(PAGE), tenant=""))
    with pytest.raises(OutOfPages):
        fill(store, "stranger")
    store.register(Prefix("new", ids(PAGE), tenant="", base="old"))
    assert fill(store, "new").done
    assert states(store, "old", "new") == "cold ready"


def test_pages_that_versions_share_count_once_for_a_floor():
    store = store_of(12, floors={"a": 8})
    tokens = ids(6 * PAGE)
    for version in range(3):  # 6 pages and twice 2 of their own: 10, and 18 if counted for each
        store.register(Prefix(f"k{version}", np.r_[tokens[: 4 * PAGE], ids(2 * PAGE)], tenant="a", base="k0"))
        fill(store, f"k{version}")
    assert store.pool.used_pages == 10
    with pytest.raises(OutOfPages):
        store.make_room(5, tenant="b")
    store.make_room(4, tenant="b")
    assert store.pool.used_pages == 8


def test_floors_that_promise_more_than_there_is_are_refused():
    with pytest.raises(ValueError, match="floors"):
        store_of(4, floors={"a": 3, "b": 2})


def test_what_left_comes_back_by_copy():
    store = store_of(4, host=8)
    resident(store, a=3, b=3)
    assert (store.state("a"), store.counters.offloaded, store.counters.offloaded_bytes) == (State.COLD, 1, 3 * store.pool.page_bytes)
    store.pool.kv[:, :, :, np.setdiff1d(np.arange(4 * PAGE), store.acquire("b", "*").slots(0, 3 * PAGE - 7))] = -1.0
    store.release(next(iter(store._ready.values())).span)
    assert store.fill("a").done
    assert holds(store.acquire("a", "*"))
    assert (store.counters.evictions, store.counters.reloads, store.counters.resident, store.counters.offloaded) == (2, 1, 1, 1)


def test_what_comes_back_and_leaves_again_is_not_copied_out_twice(monkeypatch):
    store = store_of(4, host=8)
    resident(store, a=3, b=3)
    for key in "abab":
        assert store.fill(key).done
    store.release(store.acquire("b", "*"))
    monkeypatch.setattr(store._tier, "_memory", ())  # a copy would need it
    store.make_room(4, tenant="*")
    assert (store.counters.offloaded, store.pool.used_pages) == (2, 0)


def test_a_full_host_tier_lets_the_oldest_go_and_refuses_nothing():
    store = store_of(3, host=6)
    resident(store, a=3, b=3, c=3, d=3)
    assert (store.counters.offloaded, store.counters.offloaded_bytes) == (2, 6 * store.pool.page_bytes)
    assert not store.fill("a").done  # left host memory: it is computed again
    store.fill("a").cancel()
    for key in "bd":
        assert store.fill(key).done
        assert holds(store._ready[key].span)


def test_the_copy_of_what_came_back_leaves_before_one_that_is_nowhere_else():
    store = store_of(6, host=9)
    resident(store, a=3, b=3, c=3, d=3)
    assert store.fill("b").done  # for which c has left; host memory is full with a, b and c
    resident(store, e=3)  # for which d leaves, and a copy
    assert store.fill("a").done


def test_a_policy_larger_than_the_host_tier_is_computed_again():
    store = store_of(4, host=2)
    resident(store, a=3, b=3)
    assert store.counters.offloaded == 0
    filling = fill(store, "a")
    assert filling.done
    assert holds(filling.span)


def test_no_host_memory_is_a_tier_that_keeps_nothing():
    store = store_of(4)
    resident(store, a=3, b=3)
    assert (store.counters.offloaded, store.counters.evictions) == (0, 1)


@pytest.mark.parametrize("where", ["live", "in use", "in host memory", "filling"])
def test_a_new_version_reuses_the_unchanged_pages_of_the_old_one(where):
    store = store_of(16, host=16)
    runner = WritingRunner(store.pool)
    old = ids(5 * PAGE + 20)
    new = np.r_[old[: 3 * PAGE + 40], ids(100)]
    store.register(Prefix("old", old))
    if where == "filling":
        filling = store.fill("old")
        execute(runner, [filling.row(2 * PAGE + 3)])
        filling.settle()
    else:
        fill(store, "old")
    pinned = store.acquire("old", "*") if where == "in use" else None
    if where == "in host memory":
        store.make_room(16, tenant="*")
    store.register(Prefix("new", new, base="old"))
    version = store.fill("new")
    shared = (2 if where == "filling" else 3) * PAGE
    assert (version.span.length, version.remaining) == (shared, len(new) - shared)
    fill(store, "new", runner=runner)
    assert store.counters.shared_tokens == shared
    fill(store, "old", runner=runner)
    spans = [store.acquire(key, "*") for key in ("old", "new")]
    assert all(holds(span) for span in spans)
    assert owned_as_booked(store.pool, spans)
    assert store.pool.used_pages == 12 - shared // PAGE  # however it came about: the head lies there once
    if pinned is not None:
        assert spans[0] is pinned


def test_the_new_version_survives_the_old_one_and_the_other_way_round():
    for first, second in (("old", "new"), ("new", "old")):
        store = store_of(16)
        tokens = ids(4 * PAGE)
        store.register(Prefix("old", tokens))
        store.register(Prefix("new", np.r_[tokens[: 2 * PAGE], ids(90)], base="old"))
        fill(store, "old")
        fill(store, "new")
        kept = store.acquire(second, "*")
        store.make_room(16 - len(kept.pages), tenant="*")
        assert states(store, first, second) == "cold ready"
        assert holds(kept)
        assert owned_as_booked(store.pool, [kept])


def test_versions_that_share_pages_share_them_in_host_memory_and_when_they_are_back():
    store = store_of(12, host=12)
    tokens = ids(6 * PAGE)
    for version in range(3):
        store.register(Prefix(f"k{version}", np.r_[tokens[: 5 * PAGE], ids(PAGE)], base=f"k{version - 1}" if version else None))
        fill(store, f"k{version}")
    assert store.pool.used_pages == 8
    store.make_room(12, tenant="*")
    assert (store.counters.offloaded, store.counters.offloaded_bytes) == (3, 8 * store.pool.page_bytes)
    spans = []
    for version in range(3):
        assert store.fill(f"k{version}").done
        spans.append(store.acquire(f"k{version}", "*"))
    assert store.pool.used_pages == 8
    assert all(holds(span) for span in spans)
    assert owned_as_booked(store.pool, spans)


def test_a_head_is_found_several_versions_back():
    store = store_of(20)
    tokens = ids(4 * PAGE)
    store.register(Prefix("v1", tokens))
    fill(store, "v1")
    store.register(Prefix("v2", np.r_[tokens[:-1], ids(1)], base="v1"))  # never filled
    store.register(Prefix("v3", np.r_[tokens[: 3 * PAGE + 5], ids(30)], base="v2"))
    assert store.fill("v3").span.length == 3 * PAGE


def test_a_version_that_ends_with_a_page_of_the_old_one_needs_no_pass_at_all():
    store = store_of(8)
    tokens = ids(3 * PAGE)
    store.register(Prefix("old", tokens))
    fill(store, "old")
    store.register(Prefix("new", tokens[: 2 * PAGE], base="old"))
    assert store.fill("new").done
    assert store.pool.used_pages == 3


def test_a_cancelled_filling_gives_every_page_back():
    store = store_of(12, host=4)
    runner = WritingRunner(store.pool)
    tokens = ids(3 * PAGE)
    store.register(Prefix("old", tokens))
    fill(store, "old")
    store.register(Prefix("new", np.r_[tokens, ids(200)], base="old"))
    filling = store.fill("new")
    execute(runner, [filling.row(50)])
    filling.settle()
    filling.cancel()
    filling.cancel()
    assert (states(store, "old", "new"), store.pool.used_pages) == ("ready cold", 3)
    assert filling.row(10) is None
    assert fill(store, "new").done  # and it can be filled after all


def test_a_filling_cancelled_while_its_pass_is_under_way_keeps_nothing_of_it():
    store = store_of(6)
    store.register(Prefix("k", ids(150)))
    filling = store.fill("k")
    row = filling.row(100)
    filling.cancel()
    execute(WritingRunner(store.pool), [row])
    filling.settle()
    assert (store.state("k"), store.pool.used_pages, filling.done) == (State.COLD, 0, False)


def test_a_failed_pass_leaves_the_chunk_to_be_run_again():
    store = store_of(6)
    runner = WritingRunner(store.pool)
    store.register(Prefix("k", ids(150)))
    filling = store.fill("k")
    execute(runner, [filling.row(70)])
    filling.settle()
    runner.fails = 1
    with pytest.raises(Failure):
        execute(runner, [filling.row(70)])
    filling.settle()
    assert (filling.span.length, store.pool.used_pages) == (70, 2)
    fill(store, "k", runner=runner)
    assert holds(store.acquire("k", "*"))


def test_a_filling_without_room_waits_and_holds_nothing():
    store = store_of(6, host=6)
    resident(store, a=3, b=3)
    pinned = [store.acquire(key, "*") for key in "ab"]
    store.register(Prefix("k", ids(2 * PAGE)))
    filling = store.fill("k")
    for _ in range(2):
        with pytest.raises(OutOfPages):
            filling.row(64)
    assert owned_as_booked(store.pool, pinned)
    store.release(pinned.pop())
    fill(store, "k")
    assert states(store, "a", "b", "k") == "ready cold ready"
    pinned.append(store.acquire("k", "*"))
    assert not store.fill("b").done  # back from host memory, but where to?
    with pytest.raises(OutOfPages):
        store.fill("b").row(64)
    assert owned_as_booked(store.pool, pinned)
    store.release(pinned.pop())
    assert store.fill("b").row(64) is None
    assert store.fill("b").done
    assert holds(store.acquire("b", "*"))


def test_a_policy_that_waits_for_room_to_come_back_holds_not_even_what_is_on_the_device():
    store = store_of(8, host=8)
    tokens = ids(4 * PAGE)
    store.register(Prefix("old", tokens))
    fill(store, "old")
    store.register(Prefix("new", np.r_[tokens[: 3 * PAGE], ids(10)], base="old"))
    fill(store, "new")
    pinned = [store.acquire("new", "*")]
    store.make_room(4, tenant="*")
    resident(store, other=4)
    pinned.append(store.acquire("other", "*"))
    assert not store.fill("old").done
    assert owned_as_booked(store.pool, pinned)
    store.release(pinned.pop())
    assert store.fill("old").row(10) is None
    assert store.counters.reloads == 1


def test_a_row_that_was_never_run_is_given_again_even_if_an_older_version_came_meanwhile():
    store = store_of(12)
    tokens = ids(3 * PAGE)
    store.register(Prefix("old", tokens))
    store.register(Prefix("new", np.r_[tokens, ids(10)], base="old"))
    filling = store.fill("new")
    first = filling.row(50)
    filling.settle()
    fill(store, "old")
    assert filling.row(50).keep == first.keep == 50
    assert fill(store, "new").done
    assert owned_as_booked(store.pool, [ready.span for ready in store._ready.values()])


def test_two_fillings_never_wait_for_each_other():
    store = store_of(6)
    runner = WritingRunner(store.pool)
    for key in "ab":
        store.register(Prefix(key, ids(4 * PAGE)))
    first, second = store.fill("a"), store.fill("b")
    execute(runner, [first.row(PAGE)])
    first.settle()
    with pytest.raises(OutOfPages):
        second.row(PAGE)
    runner.fails = 1
    with pytest.raises(Failure):
        execute(runner, [first.row(PAGE)])  # its reserved pages are free again
    first.settle()
    execute(runner, [second.row(PAGE)])
    second.settle()
    with pytest.raises(OutOfPages):
        first.row(PAGE)
    assert first.span.length == 0
    fill(store, "b")
    fill(store, "a")
    assert states(store, "a", "b") == "ready cold"


def test_the_copy_that_is_coming_back_is_not_pushed_out_by_what_leaves_for_it():
    store = store_of(3, host=3)
    resident(store, a=3, b=3)
    assert store.counters.offloaded == 1
    assert store.fill("a").done  # b must leave for it, and host memory is full with a
    assert holds(store.acquire("a", "*"))


def test_known_ids_are_bounded_and_the_longest_unused_cold_one_is_forgotten():
    store = store_of(4, host=10, most_known=2)
    resident(store, a=1, b=1)
    for key in "cde":
        store.register(Prefix(key, ids(10)))
    assert states(store, "a", "b", "c", "d", "e") == "ready ready unknown cold cold"
    store.make_room(4, tenant="*")
    store.register(Prefix("f", ids(10)))
    assert states(store, "a", "b", "d", "e", "f") == "unknown unknown unknown cold cold"
    assert store.counters.offloaded == 0


def test_bytes_are_counted_by_whole_pages_and_each_once():
    store = store_of(8)
    tokens = ids(2 * PAGE)
    for version in range(2):
        store.register(Prefix(f"k{version}", np.r_[tokens, ids(10)], base="k0"))
        fill(store, f"k{version}")
    assert (store.counters.resident, store.counters.resident_bytes) == (2, 4 * store.pool.page_bytes)
