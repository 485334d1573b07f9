"""What comes through the stores is what the whole prompt would have given: after eviction, return, re-use, and however a stream grew."""

import numpy as np
import pytest
import torch
from tiny_models import TAIL, head_of, naive, pool_for, probability, random_tokens, tiny_gemma2

from guardrail.engine.cope.kv import PAGE, KVPool, KVSpan
from guardrail.engine.cope.messages import Ask, Prefix
from guardrail.engine.cope.prefixes import PrefixStore
from guardrail.engine.cope.reference import ReferenceRunner
from guardrail.engine.cope.rows import Row
from guardrail.engine.cope.runner import Read, execute
from guardrail.engine.cope.streams import StreamStore

CLOSE = 1e-4
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model():
    """Its window is short, so that policies and streams reach beyond it."""
    return tiny_gemma2(num_hidden_layers=2, hidden_size=64, intermediate_size=128, sliding_window=200)


class Engine:
    def __init__(self, model, *, pages: int, host: int = 0, streams: int = 0) -> None:
        self.model = model
        self.pool: KVPool = pool_for(model, pages)
        self.runner = ReferenceRunner(model, self.pool, head_of(model))
        self.prefixes = PrefixStore(self.pool, host_bytes=host * self.pool.page_bytes)
        self.streams = StreamStore(self.prefixes, budget_bytes=streams * self.pool.page_bytes)
        self.random = np.random.default_rng(7)
        self.errors: list[float] = []

    def policy(self, key: str, tokens: np.ndarray, base: str | None = None) -> KVSpan:
        """Resident and pinned, by whatever way it gets there."""
        self.prefixes.register(Prefix(key, tokens, base=base))
        filling = self.prefixes.fill(key)
        while (row := filling.row(150)) is not None:
            execute(self.runner, [row])
            filling.settle()
        span = self.prefixes.acquire(key, "*")
        assert span is not None
        return span

    def check(self, span: KVSpan, content: np.ndarray) -> None:
        (read,) = execute(self.runner, [Row(np.r_[content, TAIL], (span,))])
        self.compare(read, np.r_[span.tokens, content])

    def compare(self, read: Read | None, prompt: np.ndarray) -> None:
        self.errors.append(abs(probability(read) - naive(self.model, np.r_[prompt, TAIL])))
        assert self.errors[-1] < CLOSE

    def some(self, count: int) -> np.ndarray:
        return random_tokens(self.random, count)


def test_policies_that_leave_and_come_back_judge_alike(model):
    engine = Engine(model, pages=11, host=13)
    policies = {f"k{number}": engine.some(250 + 20 * number) for number in range(5)}
    for _ in range(3):
        for key in engine.random.permutation(list(policies)):
            span = engine.policy(key, policies[key])
            engine.check(span, engine.some(30))
            engine.prefixes.release(span)
    counters = engine.prefixes.counters
    assert counters.evictions >= 8
    assert counters.reloads >= 2


def test_a_wrong_page_would_show(model):
    """The tests here can fail: one page of the policy exchanged for another moves the score by more than they allow."""
    engine = Engine(model, pages=8)
    span = engine.policy("k", engine.some(250))
    blocks = engine.pool.blocks()
    blocks[span.pages[1]] = blocks[span.pages[2]].clone()
    with pytest.raises(AssertionError):
        engine.check(span, engine.some(30))


@pytest.mark.parametrize("old_is", ["live", "in host memory"])
def test_an_edited_policy_on_its_old_versions_pages_judges_alike_and_so_does_the_old_one(model, old_is):
    engine = Engine(model, pages=20, host=20)
    old = engine.some(400)
    edited = np.r_[old[:300], engine.some(25), old[310:]]
    span = engine.policy("old", old)
    if old_is == "in host memory":
        engine.prefixes.release(span)
        engine.prefixes.make_room(20, tenant="*")
        engine.pool.kv.fill_(float("nan"))
    new = engine.policy("new", edited, base="old")
    assert engine.prefixes.counters.shared_tokens == 300 // PAGE * PAGE
    for both in (new, engine.policy("old", old)):
        engine.check(both, engine.some(40))
    engine.prefixes.release(new)
    engine.prefixes.make_room(20 - 7, tenant="*")
    engine.check(engine.policy("old", old), engine.some(40))
    engine.check(engine.policy("new", edited, base="old"), engine.some(40))


@pytest.mark.parametrize("budget", [40, 4, 1, 0])
def test_a_growing_answer_judges_alike_at_every_step_whatever_it_could_keep(model, budget):
    """Three streams under two policies; tails are spelled anew, steps fail, and a small budget makes the streams drop one another."""
    engine = Engine(model, pages=24, host=10, streams=budget)
    policies = {"p": engine.some(180), "q": engine.some(300)}
    contents = {name: engine.some(0) for name in "stu"}
    for turn in range(10):
        asked = []
        for name, key in zip("stu", "ppq", strict=True):
            kept = max(0, len(contents[name]) - int(engine.random.integers(0, 4)))
            contents[name] = np.r_[contents[name][:kept], engine.some(int(engine.random.choice([1, 7, 16, 40])))]
            ask = Ask(key, np.r_[contents[name], TAIL], 0.0, stream=name, keep=len(contents[name]))
            asked.append((name, key, engine.streams.row(ask, engine.policy(key, policies[key]))))
        if turn % 4 == 3:  # a pass that fails half-way: two layers in, keys and values are overwritten
            broken = ReferenceRunner(model, engine.pool, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                execute(broken, [row for *_, row in asked])
        else:
            for (name, key, _), read in zip(asked, execute(engine.runner, [row for *_, row in asked]), strict=True):
                engine.compare(read, np.r_[policies[key], contents[name]])
        for name, key, row in asked:
            engine.streams.settle(name, key)
            engine.prefixes.release(row.chain[0])
    counters = engine.streams.counters
    assert bool(counters.fallbacks) == (budget < 6)
    assert counters.tokens_run < (1.9 if budget == 40 else 10) * counters.tokens_streamed


def test_a_thousand_ways_to_split_an_answer_are_one_answer(model):
    """Streams of one content, each split elsewhere, with wrong tails that the next step takes back; side by side in one pass."""
    engine = Engine(model, pages=120, streams=110)
    policy = engine.policy("p", engine.some(90))
    content = engine.some(70)
    expected = naive(model, np.r_[policy.tokens, content, TAIL])
    worst = 0.0
    for batch in range(20):
        cuts = [np.sort(engine.random.choice(np.arange(1, 70), 3, replace=False)) for _ in range(50)]
        for step in range(4):
            rows = []
            for number, cut in enumerate(cuts):
                text = np.r_[content[: cut[step]], engine.some(int(engine.random.integers(0, 3)))] if step < 3 else content
                ask = Ask("p", np.r_[text, TAIL], 0.0, stream=f"{batch}.{number}", keep=len(text))
                rows.append(engine.streams.row(ask, policy))
            reads = execute(engine.runner, rows)
            for number in range(50):
                engine.streams.settle(f"{batch}.{number}", "p")
        worst = max(worst, *(abs(probability(read) - expected) for read in reads))
        for number in range(50):
            engine.streams.forget(f"{batch}.{number}")
    assert worst < CLOSE
    assert engine.pool.used_pages == len(policy.pages)
