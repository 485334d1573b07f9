"""Any mix of rows in one pass gives what the naive forward of each whole prompt gives."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from exactness import CLOSE, RUNNERS, Desk, Growing, apart, question, shared_gemma2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import TAIL, random_tokens

from guardrail.engine.cope.kv import KVSpan
from guardrail.engine.cope.rows import Row

WINDOW = 100


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=RUNNERS)
def desk(request: pytest.FixtureRequest) -> Desk:
    """A window that most prompts exceed, so that both kinds of layer show."""
    return Desk(shared_gemma2(sliding_window=WINDOW), RUNNERS[request.param])


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(1)


def test_a_pass_mixes_policies_and_lengths(desk: Desk, generator: np.random.Generator):
    policies = [random_tokens(generator, length) for length in (1, 40, 64, 130, 700)]
    spans = [desk.prefix(policy) for policy in policies]
    asked = [(which, random_tokens(generator, length)) for length in (1, 20, 64, 300) for which in range(5)]
    expected = [desk.naive(policies[which], content, TAIL) for which, content in asked]

    found = desk.scores([question(spans[which], content) for which, content in asked])

    assert apart(found, expected) < CLOSE
    assert max(expected) - min(expected) > 0.1, "scores that hardly differ prove little"


def test_a_row_scores_the_same_alone_and_in_company(desk: Desk, generator: np.random.Generator):
    spans = [desk.prefix(random_tokens(generator, length)) for length in (90, 200)]
    rows = [question(spans[place % 2], random_tokens(generator, length)) for place, length in enumerate((1, 7, 33, 64, 100, 180))]

    together = desk.scores(rows)

    assert apart(together, [desk.scores([row])[0] for row in rows]) < 1e-5
    assert apart(together, desk.scores(rows[::-1])[::-1]) < 1e-5
    assert together == desk.scores(rows), "one pass twice is equal to the bit"


def test_a_policy_prefilled_in_chunks_is_the_policy(desk: Desk, generator: np.random.Generator):
    policy, content = random_tokens(generator, 333), random_tokens(generator, 20)
    spans = [desk.prefix(policy, chunk=chunk) for chunk in (333, 200, 64, 37)]

    found = desk.scores([question(span, content) for span in spans])

    assert apart(found, [desk.naive(policy, content, TAIL)] * len(spans)) < CLOSE


def test_one_pass_mixes_every_kind_of_row(desk: Desk, generator: np.random.Generator):
    policies = [random_tokens(generator, length) for length in (120, 250)]
    spans = [desk.prefix(policy) for policy in policies]
    fresh, whole, shot, *grown = (random_tokens(generator, length) for length in (310, 90, 45, 40, 70))
    streams = [Growing(desk, span) for span in spans]
    desk.run([stream.row(content[:25]) for stream, content in zip(streams, grown, strict=True)])
    new = KVSpan(desk.pool)
    desk.run([desk.prefill(new, fresh[:200])])

    *found, nothing = desk.run(
        [
            question(spans[1], shot),
            Row(np.concatenate([whole, TAIL])),
            *(stream.row(content) for stream, content in zip(streams, grown, strict=True)),
            desk.prefill(new, fresh[200:]),
        ]
    )

    after = desk.scores([question(new, shot)])
    scores = [1 / (1 + np.exp(read.zero - read.one)) for read in found if read is not None]
    expected = [desk.naive(policies[1], shot, TAIL), desk.naive(whole, TAIL)]
    expected += [desk.naive(policy, content, TAIL) for policy, content in zip(policies, grown, strict=True)]
    assert nothing is None
    assert apart([*scores, *after], [*expected, desk.naive(fresh, shot, TAIL)]) < CLOSE


def test_pages_need_not_lie_side_by_side(desk: Desk, generator: np.random.Generator):
    pages = [KVSpan(desk.pool) for _ in range(6)]
    for span in pages:
        span.reserve(64)
    for span in pages[::2]:
        span.drop()
    policy, content = random_tokens(generator, 250), random_tokens(generator, 50)
    scattered = desk.prefix(policy, chunk=60)
    assert not scattered.contiguous

    assert apart(desk.scores([question(scattered, content)]), [desk.naive(policy, content, TAIL)]) < CLOSE


def test_pages_may_lie_in_any_order(desk: Desk, generator: np.random.Generator):
    policy, content = random_tokens(generator, 180), random_tokens(generator, 50)
    held = [KVSpan(desk.pool) for _ in range(4)]
    for span in held:
        span.reserve(64)
    scattered = KVSpan(desk.pool)
    for place, start in zip((0, 3, 2), (0, 64, 128), strict=True):
        held[place].drop()
        desk.run([desk.prefill(scattered, policy[start : start + 64])])
    assert (scattered.pages - scattered.pages[0]).tolist() == [0, 3, 2], "the ends lie as if all lay side by side"

    found = desk.scores([question(scattered, content)])

    assert apart(found, [desk.naive(policy, content, TAIL)]) < CLOSE


def test_what_rows_keep_lands_where_each_keeps_it(desk: Desk, generator: np.random.Generator):
    span = desk.prefix(random_tokens(generator, 70))
    contents = [random_tokens(generator, length) for length in (64, 16, 32)]
    streams = [Growing(desk, span) for _ in contents]
    for number, held in ((0, 60), (2, 16)):
        desk.run([streams[number].row(contents[number][:held])])
    assert streams[2].span.pages[0] == streams[0].span.pages[0] + 1, "the ends of what is kept lie as if all of it lay side by side"
    desk.run([stream.row(content) for stream, content in zip(streams, contents, strict=True)])

    found = desk.scores([stream.row(content) for stream, content in zip(streams, contents, strict=True)])

    assert apart(found, [desk.naive(span.tokens, content, TAIL) for content in contents]) < CLOSE


def test_a_span_that_shares_the_head_of_another(desk: Desk, generator: np.random.Generator):
    old, content = random_tokens(generator, 200), random_tokens(generator, 30)
    new = np.concatenate([old[:150], random_tokens(generator, 70)])
    spans = [desk.prefix(old), KVSpan(desk.pool)]
    spans[1].share_head(spans[0], 128)
    desk.run([desk.prefill(spans[1], new[128:])])

    found = desk.scores([question(span, content) for span in spans])

    assert apart(found, [desk.naive(old, content, TAIL), desk.naive(new, content, TAIL)]) < CLOSE


@pytest.mark.parametrize("kind", RUNNERS)
def test_beyond_the_window_of_the_real_model(kind: str, generator: np.random.Generator):
    desk = Desk(shared_gemma2(num_hidden_layers=2), RUNNERS[kind])
    policy, content = random_tokens(generator, 4000), random_tokens(generator, 200)

    found = desk.scores([question(desk.prefix(policy, chunk=1024), content)])

    assert apart(found, [desk.naive(policy, content, TAIL)]) < CLOSE


@pytest.mark.parametrize("kind", RUNNERS)
def test_a_content_of_three_thousand_tokens(kind: str, generator: np.random.Generator):
    desk = Desk(shared_gemma2(sliding_window=1000, num_hidden_layers=2), RUNNERS[kind])
    policy, content = random_tokens(generator, 100), random_tokens(generator, 3000)

    found = desk.scores([question(desk.prefix(policy), content)])

    assert apart(found, [desk.naive(policy, content, TAIL)]) < CLOSE


lengths = st.integers(1, 150)
passes = st.lists(st.tuples(st.integers(0, 2), lengths), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(policies=st.tuples(lengths, lengths, lengths), chunk=st.integers(1, 150), asked=passes, seed=st.integers(0, 1000))
def test_any_pass_is_exact(desk: Desk, policies: tuple[int, ...], chunk: int, asked: list[tuple[int, int]], seed: int):
    generator = np.random.default_rng(seed)
    heads = [random_tokens(generator, length) for length in policies]
    spans = [desk.prefix(head, chunk=chunk) for head in heads]
    contents = [(which, random_tokens(generator, length)) for which, length in asked]

    found = desk.scores([question(spans[which], content) for which, content in contents])

    for span in spans:
        span.drop()
    assert apart(found, [desk.naive(heads[which], content, TAIL) for which, content in contents]) < CLOSE
