import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written_kv import Failure, WritingRunner, fill, holds, owned_as_booked, pool_of

from guardrail.engine.cope.kv import PAGE, KVSpan, OutOfPages
from guardrail.engine.cope.messages import Ask, Prefix
from guardrail.engine.cope.prefixes import PrefixStore
from guardrail.engine.cope.rows import Row
from guardrail.engine.cope.runner import execute
from guardrail.engine.cope.streams import StreamStore

_UNUSED = itertools.count(10)
TAIL = np.array([7, 8, 9, 8, 5, 6, 7, 8, 9], np.int32)  # stands for the answer header


def ids(count: int) -> np.ndarray:
    """Of which none has been seen before: what differs differs from the first token on."""
    return np.fromiter(itertools.islice(_UNUSED, count), np.int32, count)


class Desk:
    """A pool with a policy of two pages under each name asked for, and streams over them."""

    def __init__(self, pages: int, budget: int, *, host: int = 50, **settings: int) -> None:
        self.pool = pool_of(pages)
        self.prefixes = PrefixStore(self.pool, host_bytes=host * self.pool.page_bytes)
        self.streams = StreamStore(self.prefixes, budget_bytes=budget * self.pool.page_bytes, **settings)
        self.runner = WritingRunner(self.pool)

    def policy(self, key: str) -> KVSpan:
        if not self.prefixes.known(key):
            self.prefixes.register(Prefix(key, ids(2 * PAGE - 9)))
        fill(self.prefixes, key, runner=self.runner)
        span = self.prefixes.acquire(key, "*")
        assert span is not None
        return span

    def row(self, stream: str, content: np.ndarray, policy: str = "p") -> Row:
        """The row of a step, its policy acquired for the pass."""
        return self.streams.row(Ask(policy, np.r_[content, TAIL], 0.0, stream=stream, keep=len(content)), self.policy(policy))

    def settle(self, stream: str, row: Row, policy: str = "p", *, sound: bool = True) -> None:
        self.streams.settle(stream, policy, sound=sound)
        self.prefixes.release(row.chain[0])

    def step(self, stream: str, content: np.ndarray, policy: str = "p") -> Row:
        """Made, run, settled; the row shows what was asked to run."""
        row = self.row(stream, content, policy)
        spans = [span.length for span in row.chain]
        prompt = np.concatenate([*[span.tokens for span in row.chain], row.tokens])
        assert (prompt == np.r_[row.chain[0].tokens, content, TAIL]).all()  # whatever was kept: this is what is judged
        execute(self.runner, [row])
        self.settle(stream, row, policy)
        assert spans[0] == row.chain[0].length
        return row

    def sound(self) -> bool:
        kept = [(kv.span, kv.prefix) for kv in self.streams.idle()]
        ready = [ready.span for ready in self.prefixes._ready.values()]
        assert all(holds(span, prefix.tokens) and prefix in ready and prefix.pins for span, prefix in kept)
        return owned_as_booked(self.pool, [*ready, *[span for span, _ in kept]])


def test_a_step_runs_what_is_new_and_the_question_behind_it():
    desk, content = Desk(20, 10), ids(300)
    ran = []
    for length in (16, 32, 100, 300):
        row = desk.step("s", content[:length])
        ran.append((len(row.tokens), row.keep, len(row.chain)))
    assert ran == [(25, 16, 1), (25, 16, 2), (77, 68, 2), (209, 200, 2)]
    assert desk.sound()
    assert desk.streams.counters.tokens_run == 25 + 25 + 77 + 209
    assert desk.streams.counters.tokens_streamed == 300


def test_steps_of_sixteen_tokens_with_a_question_of_nine_run_at_most_1_6_tokens_for_each():
    desk, content = Desk(20, 10), ids(480)
    for length in range(16, 481, 16):
        desk.step("s", content[:length])
    counters = desk.streams.counters
    assert counters.tokens_streamed == 480
    assert counters.tokens_run / counters.tokens_streamed <= 1.6


@given(edits=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 90)), min_size=1, max_size=12))
@settings(deadline=None, max_examples=40)
def test_only_the_longest_common_prefix_of_tokens_is_kept_whatever_was_respelled(edits):
    desk, content = Desk(12, 8), ids(0)
    kept = 0
    for cut, more in edits:
        common = min(cut, len(content))
        content = np.r_[content[:common], ids(more)]
        content = content[: 4 * PAGE]
        row = desk.step("s", content)
        assert len(row.tokens) == len(content) - min(common, kept) + len(TAIL)
        kept = len(content)
        assert desk.sound()


def test_the_same_content_again_runs_the_question_alone():
    desk, content = Desk(12, 4), ids(50)
    desk.step("s", content)
    row = desk.step("s", content)
    assert (row.tokens.tolist(), row.keep, row.into) == (TAIL.tolist(), 0, None)


def test_an_ask_that_keeps_all_still_has_a_token_to_read_at():
    desk, content = Desk(12, 4), ids(50)
    ask = Ask("p", content, 0.0, stream="s", keep=50)
    for tokens in (50, 1):
        row = desk.streams.row(ask, desk.policy("p"))
        execute(desk.runner, [row])
        desk.settle("s", row)
        assert len(row.tokens) == tokens
    assert desk.sound()


def test_one_stream_under_many_policies_keeps_kv_for_each():
    desk, content = Desk(20, 10), ids(80)
    for policy in ("p", "q"):
        for length in (40, 80):
            assert len(desk.step("s", content[:length], policy).tokens) == 40 + len(TAIL)
    assert desk.streams.counters.streams == 2
    assert desk.sound()
    desk.streams.forget("s")
    assert (desk.streams.counters.streams, desk.pool.used_pages) == (0, 4)
    desk.streams.forget("s")


def test_rows_of_several_streams_and_policies_are_one_pass():
    desk, contents = Desk(30, 20), {name: ids(150) for name in "abcd"}
    for length in (50, 100, 150):
        rows = {name: desk.row(name, content[:length], "pq"[name in "ab"]) for name, content in contents.items()}
        execute(desk.runner, list(rows.values()))
        for name, row in rows.items():
            desk.settle(name, row, "pq"[name in "ab"])
        assert desk.sound()
        assert {len(row.tokens) for row in rows.values()} == {50 + len(TAIL)}


def test_beyond_its_budget_the_longest_idle_stream_gives_up_its_kv_and_is_rebuilt_at_its_next_step():
    desk, contents = Desk(30, 4), {name: ids(100) for name in "abc"}
    desk.step("a", contents["a"])
    desk.step("b", contents["b"])
    desk.step("a", contents["a"][:90])
    desk.step("c", contents["c"])  # two pages each: b goes
    counters = desk.streams.counters
    assert (counters.streams, counters.bytes, counters.dropped, counters.fallbacks) == (2, 4 * desk.pool.page_bytes, 1, 0)
    assert len(desk.step("a", contents["a"]).tokens) == 10 + len(TAIL)
    assert len(desk.step("b", contents["b"]).tokens) == 100 + len(TAIL)
    assert len(desk.step("b", contents["b"]).tokens) == len(TAIL)
    assert desk.sound()


def test_a_stream_larger_than_the_budget_keeps_what_fits_and_runs_the_rest_again():
    desk, content = Desk(20, 2), ids(300)
    ran = [len(desk.step("s", content[:length]).tokens) for length in (100, 200, 300)]
    assert ran == [109, 100 + 9, 300 - 128 + 9]
    assert (desk.streams.counters.fallbacks, desk.streams.counters.bytes) == (2, 2 * desk.pool.page_bytes)
    assert desk.sound()


def test_without_a_budget_every_step_is_a_whole_row():
    desk, content = Desk(8, 0), ids(100)
    row = desk.step("s", content)
    assert (len(row.tokens), row.chain, row.into, row.keep) == (109, (desk.prefixes._ready["p"].span,), None, 0)
    assert (desk.streams.counters.fallbacks, row.chain[0].pins) == (1, 0)


def test_where_all_else_is_in_use_a_step_is_a_whole_row_that_keeps_nothing():
    desk, content = Desk(5, 3), ids(100)
    held = desk.policy("q")
    row = desk.row("s", content)
    assert (len(row.tokens), row.keep, len(row.chain)) == (109, 0, 1)  # two pages are needed, one is free
    execute(desk.runner, [row])
    desk.settle("s", row)
    desk.prefixes.release(held)
    assert desk.step("s", content).keep == 100  # the other policy has gone to host memory
    assert desk.sound()


def test_a_stream_pins_its_policy():
    desk = Desk(8, 4)
    desk.step("s", ids(30))
    (kv,) = desk.streams.idle()
    assert kv.prefix.pins == 1
    desk.streams.forget("s")
    assert kv.prefix.pins == 0


def test_need_of_room_for_a_policy_drops_idle_streams_before_anything_fails():
    desk = Desk(6, 4)
    desk.step("s", ids(200))  # four pages behind a policy of two
    desk.policy("q")
    assert (desk.streams.counters.streams, desk.streams.counters.dropped) == (0, 1)
    assert (desk.prefixes.resident("p"), desk.prefixes.resident("q")) == (True, True)  # its pages were enough
    assert desk.sound()


def test_a_policy_leaves_with_the_last_stream_that_pinned_it():
    desk = Desk(6, 4)
    desk.step("s", ids(100))
    desk.step("t", ids(100))
    desk.prefixes.make_room(6, tenant="*")
    assert (desk.pool.used_pages, desk.streams.counters.streams, desk.prefixes.counters.offloaded) == (0, 0, 1)
    assert desk.step("s", ids(100)).keep == 100
    assert desk.sound()


def test_a_stream_does_not_outlast_its_policy_even_where_its_own_pages_are_not_needed():
    desk = Desk(4, 2)
    desk.step("s", ids(20))  # one page behind two, one is free
    desk.prefixes.make_room(3, tenant="*")
    assert (desk.streams.counters.streams, desk.prefixes.resident("p"), desk.pool.used_pages) == (0, False, 0)


def test_a_policy_used_later_than_a_stream_outlasts_it():
    desk = Desk(7, 2)
    desk.step("s", ids(50), "p")
    desk.prefixes.release(desk.policy("q"))
    desk.prefixes.release(desk.policy("p"))
    desk.prefixes.make_room(3, tenant="*")
    assert (desk.streams.counters.streams, desk.prefixes.resident("q"), desk.prefixes.resident("p")) == (0, True, True)


def test_a_stream_whose_step_is_under_way_is_not_dropped():
    desk = Desk(6, 4)
    row = desk.row("s", ids(100))
    with pytest.raises(OutOfPages):
        desk.prefixes.make_room(3, tenant="*")
    execute(desk.runner, [row])
    desk.settle("s", row)
    assert desk.sound()
    desk.prefixes.make_room(3, tenant="*")


def test_two_steps_of_one_stream_in_one_pass_are_both_answered_and_only_one_grows():
    desk, content = Desk(12, 6), ids(120)
    rows = [desk.row("s", content[:60]), desk.row("s", content)]
    assert [(len(row.tokens), row.keep, len(row.chain)) for row in rows] == [(69, 60, 1), (129, 0, 1)]
    execute(desk.runner, rows)
    desk.settle("s", rows[0])
    third = desk.row("s", content)  # the second is out still: it must not be settled in the third's place
    assert third.keep == 0
    desk.settle("s", rows[1])
    desk.settle("s", third)
    assert len(desk.step("s", content).tokens) == 60 + len(TAIL)
    assert desk.sound()


def test_the_pages_of_a_step_stay_its_own_while_it_is_out_whichever_other_one_settles():
    desk, content = Desk(12, 6), ids(120)
    rows = [desk.row("s", content), desk.row("s", content)]
    desk.settle("s", rows[1])  # the whole one
    assert desk.pool.used_pages == 4
    execute(desk.runner, rows[:1])
    desk.settle("s", rows[0])
    assert len(desk.step("s", content).tokens) == len(TAIL)


@pytest.mark.parametrize("resident", [0, 50])
def test_a_stream_whose_step_failed_goes_on_from_where_it_stood(resident):
    desk, content = Desk(12, 6), ids(200)
    if resident:
        desk.step("s", content[:resident])
    respelled = np.r_[content[: resident - 3], ids(100)] if resident else content[:100]
    row = desk.row("s", respelled)
    desk.runner.fails = 1
    with pytest.raises(Failure):
        execute(desk.runner, [row])
    desk.settle("s", row)
    kept = max(0, resident - 3)
    assert desk.sound()
    assert desk.pool.used_pages == 2 + (1 if resident else 0)
    assert desk.streams.counters.streams == (1 if resident else 0)
    assert len(desk.step("s", respelled).tokens) == len(respelled) - kept + len(TAIL)
    assert desk.sound()


def test_a_step_that_was_never_run_gives_its_pages_back():
    desk = Desk(12, 6)
    row = desk.row("s", ids(200))
    assert desk.pool.used_pages == 6
    desk.settle("s", row)
    assert (desk.pool.used_pages, desk.streams.counters.streams) == (2, 0)


def test_a_later_step_that_was_never_run_keeps_what_was_there():
    desk, content = Desk(12, 6), ids(200)
    desk.step("s", content[:50])
    row = desk.row("s", content)
    assert desk.pool.used_pages == 6
    desk.settle("s", row)
    assert desk.pool.used_pages == 3
    assert len(desk.step("s", content).tokens) == 150 + len(TAIL)


def test_kv_that_gave_no_number_is_not_used_again():
    desk, content = Desk(12, 6), ids(100)
    row = desk.row("s", content[:60])
    execute(desk.runner, [row])
    desk.settle("s", row, sound=False)
    assert len(desk.step("s", content).tokens) == 100 + len(TAIL)
    assert len(desk.step("s", content).tokens) == len(TAIL)


def test_a_stream_forgotten_while_its_step_is_under_way_is_gone_when_that_settles():
    desk, content = Desk(12, 6), ids(100)
    row = desk.row("s", content)
    desk.streams.forget("s")
    again = desk.row("s", content)
    assert again.keep == 0
    execute(desk.runner, [row, again])
    desk.settle("s", row)
    desk.settle("s", again)
    assert (desk.pool.used_pages, desk.streams.counters.streams) == (2, 0)
    assert len(desk.step("s", content).tokens) == 100 + len(TAIL)
    assert len(desk.step("s", content).tokens) == len(TAIL)


def test_a_policy_that_left_and_came_back_elsewhere_costs_a_rebuild():
    desk, content = Desk(12, 6), ids(100)
    desk.step("s", content)
    other = KVSpan(desk.pool)
    other.reserve(2 * PAGE - 9)
    other.append(ids(2 * PAGE - 9))
    row = desk.streams.row(Ask("p", np.r_[content, TAIL], 0.0, stream="s", keep=100), other)
    assert (len(row.tokens), row.chain, other.pins) == (109, (other,), 1)
    desk.streams.settle("s", "p")
    assert other.pins == 0


def test_an_ask_without_a_stream_is_refused():
    desk = Desk(4, 1)
    with pytest.raises(ValueError, match="stream"):
        desk.streams.row(Ask("p", TAIL, 0.0), desk.policy("p"))


def test_what_is_remembered_of_streams_is_bounded():
    desk = Desk(20, 10, most_streams=3)
    for number in range(6):
        desk.step(f"s{number}", ids(20))
    assert desk.streams.counters.streams == 3
    assert len(desk.streams._streams) == len(desk.streams._prefixes_of) == 3
    assert desk.sound()


def test_settling_and_forgetting_what_is_not_there_does_nothing():
    desk = Desk(4, 1)
    desk.streams.settle("s", "p")
    desk.streams.forget("s")
    desk.step("s", ids(10))
    desk.streams.settle("s", "p")
    assert desk.sound()
