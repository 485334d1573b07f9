"""Anything, in any order, while passes are under way: no page leaks, nothing in use leaves, every budget and floor holds."""

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from written_kv import Failure, WritingRunner, holds, owned_as_booked, pool_of

from guardrail.engine.cope.filling import Filling
from guardrail.engine.cope.kv import PAGE, KVSpan, OutOfPages
from guardrail.engine.cope.messages import Ask, Prefix
from guardrail.engine.cope.prefixes import PrefixStore
from guardrail.engine.cope.rows import Row
from guardrail.engine.cope.runner import execute
from guardrail.engine.cope.streams import StreamStore

PAGES, HOST, BUDGET = 14, 9, 5
KNOWN = 4
FLOORS = {"a": 3, "*": 2}
_RANDOM = np.random.default_rng(3)
_FAMILIES = [_RANDOM.integers(3, 500, 6 * PAGE, dtype=np.int32) for _ in range(2)]
# name -> (tokens, version it was made from): two families of versions that share heads of 0 to 3 pages, and loose ones
POLICIES: dict[str, tuple[np.ndarray, str | None]] = {
    f"f{family}v{version}": (
        np.r_[tokens[: version * PAGE + 30], _RANDOM.integers(3, 500, 20 + 50 * version, dtype=np.int32)]
        if version
        else tokens[: 3 * PAGE + 9],
        f"f{family}v{version - 1}" if version else None,
    )
    for family, tokens in enumerate(_FAMILIES)
    for version in range(3)
} | {f"loose{size}": (_RANDOM.integers(3, 500, size, dtype=np.int32), None) for size in (PAGE, 5 * PAGE)}
TAIL = np.array([7, 8, 9], np.int32)

names = st.sampled_from(sorted(POLICIES))
tenants = st.sampled_from(["a", "b", "*"])
streams = st.sampled_from(["s", "t", "u"])


class Stores(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pool = pool_of(PAGES)
        page = self.pool.page_bytes
        self.prefixes = PrefixStore(
            self.pool, host_bytes=HOST * page, floors={tenant: pages * page for tenant, pages in FLOORS.items()}, most_known=KNOWN
        )
        self.streams = StreamStore(self.prefixes, budget_bytes=BUDGET * page, most_streams=4)
        self.runner = WritingRunner(self.pool)
        self.pins: list[tuple[str, KVSpan]] = []
        self.fillings: list[Filling] = []  # cancelled ones, too, while their rows are out
        self.steps: list[tuple[str, str, Row, KVSpan]] = []
        self.fill_rows: list[tuple[Filling, Row]] = []
        self.asker: frozenset[str] = frozenset()  # on whose behalf the last rule asked for room
        self.before: dict[str, tuple[frozenset[str], int]] = {}

    def _remember(self, *askers: str) -> None:
        ready = self.prefixes._ready
        self.before = {key: (frozenset(one.tenants), id(one.span)) for key, one in ready.items()}
        self.asker = frozenset(askers)

    # --- policies
    @rule(name=names, tenant=tenants)
    def register(self, name, tenant):
        self._remember(tenant)
        tokens, base = POLICIES[name]
        self.prefixes.register(Prefix(name, tokens, tenant=tenant, base=base))
        assert len(self.prefixes._known) - len(self.prefixes._ready) - len(self.prefixes._filling) <= KNOWN

    @rule(name=names, tenant=tenants, whole=st.booleans())
    def fill(self, name, tenant, whole):
        """Begun, or (mostly what comes first) as far as there is room at once."""
        if not self.prefixes.known(name):
            self.register(name, tenant)
        self._remember(*self.prefixes._known[name].tenants)
        filling = self.prefixes.fill(name)
        if not filling.done and not any(other is filling for other in self.fillings):
            self.fillings.append(filling)
        if whole and not filling.done and not any(other is filling for other, _ in self.fill_rows):
            try:
                while (row := filling.row(2 * PAGE)) is not None:
                    execute(self.runner, [row])
                    filling.settle()
                self.fillings.remove(filling)
            except OutOfPages:
                assert not len(filling.span.pages)

    @precondition(lambda self: self.fillings)
    @rule(data=st.data(), chunk=st.integers(1, 300))
    def fill_row(self, data, chunk):
        filling = data.draw(st.sampled_from(self.fillings))
        if any(other is filling for other, _ in self.fill_rows):
            return
        key = next((key for key, other in self.prefixes._filling.items() if other is filling), None)
        self._remember(*(self.prefixes._known[key].tenants if key else ()))
        try:
            row = filling.row(chunk)
        except OutOfPages:
            assert not len(filling.span.pages)
            return
        if row is None:
            self.fillings.remove(filling)
        else:
            self.fill_rows.append((filling, row))

    @precondition(lambda self: self.fillings)
    @rule(data=st.data())
    def cancel(self, data):
        self._remember()
        filling = data.draw(st.sampled_from(self.fillings))
        filling.cancel()
        if not any(other is filling for other, _ in self.fill_rows):
            self.fillings.remove(filling)

    @rule(name=names, tenant=tenants)
    def acquire(self, name, tenant):
        self._remember()
        span = self.prefixes.acquire(name, tenant)
        assert (span is not None) == (name in self.prefixes._ready)
        if span is not None:
            self.pins.append((name, span))

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def release(self, data):
        self._remember()
        pin = data.draw(st.sampled_from(self.pins))
        self.pins.remove(pin)
        self.prefixes.release(pin[1])

    @rule(pages=st.integers(0, PAGES + 1), tenant=tenants)
    def make_room(self, pages, tenant):
        self._remember(tenant)
        owners = self.pool.ownership()
        try:
            self.prefixes.make_room(pages, tenant=tenant)
        except OutOfPages:
            assert (self.pool.ownership() == owners).all()
        else:
            assert self.pool.free_pages >= pages

    # --- streams
    @rule(stream=streams, name=names, length=st.integers(1, 6 * PAGE), respelled=st.integers(0, 3), tenant=tenants)
    def step(self, stream, name, length, respelled, tenant):
        """Made now, run with the next pass."""
        if not self.prefixes.resident(name):
            name = next(iter(self.prefixes._ready), name)
        self._remember(tenant)
        span = self.prefixes.acquire(name, tenant)
        if span is None:
            return
        content = np.full(length, 50, np.int32)
        content[-min(respelled, length) or length :] += self.pool.free_pages
        ask = Ask(name, np.r_[content, TAIL], 0.0, tenant=tenant, stream=stream, keep=length)
        row = self.streams.row(ask, span)
        assert (np.concatenate([*[one.tokens for one in row.chain[1:]], row.tokens]) == ask.tokens).all()
        self.steps.append((stream, name, row, span))

    @rule(stream=streams)
    def forget(self, stream):
        self._remember()
        self.streams.forget(stream)

    # --- passes
    @rule(fails=st.booleans(), settled=st.booleans())
    def run(self, fails, settled):
        """Everything that is out, as one pass, which may fail; or nothing is run at all, and settled all the same."""
        self._remember()
        rows = [row for *_, row, _ in self.steps] + [row for _, row in self.fill_rows]
        if rows and not settled:
            self.runner.fails = int(fails)
            try:
                execute(self.runner, rows)
            except Failure:
                assert fails
            except OutOfPages:
                assert any(filling.cancelled for filling, _ in self.fill_rows)  # whose pages somebody else has by now
            self.runner.fails = 0
        for stream, name, _, span in self.steps:
            self.streams.settle(stream, name)
            self.prefixes.release(span)
        for filling, _ in self.fill_rows:
            filling.settle()
            if filling.done or filling.cancelled:
                self.fillings.remove(filling)
        self.steps, self.fill_rows = [], []

    # --- what always holds
    def _spans(self) -> list[KVSpan]:
        streams = [one.kv.span for one in self.streams._resident.values()]
        return [one.span for one in self.prefixes._ready.values()] + [one.span for one in self.fillings] + streams

    @invariant()
    def no_page_leaks(self):
        assert owned_as_booked(self.pool, self._spans())
        assert self.pool.used_pages == len({int(page) for span in self._spans() for page in span.pages})

    @invariant()
    def what_is_in_use_stays(self):
        for name, span in [*self.pins, *[(name, span) for _, name, _, span in self.steps]]:
            assert self.prefixes._ready[name].span is span
            assert span.length == len(POLICIES[name][0])
        for stream in self.streams._resident.values():
            assert any(one.span is stream.kv.prefix for one in self.prefixes._ready.values())
            assert stream.kv.prefix.pins > 0
        pins = len(self.pins) + len(self.steps) + len(self.streams._resident)
        assert sum(one.span.pins for one in self.prefixes._ready.values()) == pins

    @invariant()
    def all_that_is_resident_is_what_it_should_be(self):
        for key, one in self.prefixes._ready.items():
            assert (one.span.tokens == POLICIES[key][0]).all()
            assert holds(one.span)
        for filling in self.fillings:
            assert holds(filling.span)
        for stream in self.streams._resident.values():
            assert holds(stream.kv.span, stream.kv.prefix.tokens)

    @invariant()
    def budgets_hold(self):
        assert self.streams.counters.bytes <= BUDGET * self.pool.page_bytes
        assert self.prefixes._tier.nbytes <= HOST * self.pool.page_bytes
        copies = self.prefixes._tier._copies.values()
        assert self.prefixes._tier.nbytes == len({int(page) for pages in copies for page in pages}) * self.pool.page_bytes

    @invariant()
    def nobody_else_evicts_below_a_floor(self):
        ready = self.prefixes._ready
        for key, (owners, span) in self.before.items():
            if key in ready and id(ready[key].span) == span:
                continue
            for owner in (owners & FLOORS.keys()) - self.asker:
                left = {int(page) for one in ready.values() if owner in one.tenants for page in one.span.pages}
                assert len(left) >= FLOORS[owner]

    @invariant()
    def what_is_counted_is_what_is_there(self):
        pages = {int(page) for one in self.prefixes._ready.values() for page in one.span.pages}
        assert self.prefixes.counters.resident_bytes == len(pages) * self.pool.page_bytes

    @invariant()
    def the_floors_books_are_the_spans(self):
        for tenant in FLOORS:
            own = {int(page) for one in self.prefixes._ready.values() if tenant in one.tenants for page in one.span.pages}
            assert self.prefixes._floors.pages(tenant) == len(own)

    def teardown(self):
        self.run(False, False)
        for filling in list(self.fillings):
            filling.cancel()
        for _, span in self.pins:
            self.prefixes.release(span)
        for stream in "stu":
            self.streams.forget(stream)
        assert self.streams.counters.streams == 0
        self.prefixes._make_room(PAGES, FLOORS.keys())
        assert self.pool.used_pages == 0


TestStores = Stores.TestCase
TestStores.settings = settings(max_examples=60, stateful_step_count=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
