"""The engine as its callers see it: answers under concurrency are the naive ones, and nobody waits longer than needed."""

import asyncio
import threading
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from engine_rig import INFO, VOCABULARY, Rig, SumRunner, ask, parts_of, running, score_of, stopped, tiny_parts
from tiny_models import ONE, TAIL, ZERO, head_of, naive, pool_for, probability, random_tokens, tiny_gemma2

from guardrail.engine.cope.admission import Admission
from guardrail.engine.cope.canary import Canary
from guardrail.engine.cope.delivery import Call
from guardrail.engine.cope.jobs import Job
from guardrail.engine.cope.kv import PAGE, OutOfPages
from guardrail.engine.cope.loop import EngineLoop
from guardrail.engine.cope.messages import Ask, Prefix, Priority, Told
from guardrail.engine.cope.reference import ReferenceRunner
from guardrail.engine.cope.schedule import Limits
from guardrail.errors import ClassifierError

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model():
    return tiny_gemma2(num_hidden_layers=2)


def check(rig: Rig, model, asked: list[Ask], told: list[Told | ClassifierError]) -> None:
    """Every answer is the naive one."""
    for one, answer in zip(asked, told, strict=True):
        assert isinstance(answer, Told), answer
        expected = naive(model, np.concatenate([rig.prefixes[one.prefix], one.tokens]), ZERO, ONE)
        assert probability(answer.read) == pytest.approx(expected, abs=1e-4)


async def test_answers_under_concurrency_are_the_naive_ones(model):
    generator = np.random.default_rng(1)
    async with running(tiny_parts(model)) as rig:
        await rig.prepare(*(rig.prefix(f"policy {number}", length) for number, length in enumerate((70, 300, 900))))

        async def caller(number: int) -> None:
            await asyncio.sleep(0.005 * number)
            lengths = generator.choice([1, 5, 40, 120, 400], size=2)
            asked = [ask(f"policy {number % 3}", random_tokens(generator, length)) for length in lengths]
            check(rig, model, asked, await rig.engine.ask(asked))

        async def stream(name: str) -> None:
            content, sizes = random_tokens(generator, 200), Counter[str]()
            for length in (30, 64, 65, 130, 200):
                asked = [
                    ask(key, np.concatenate([content[:length], TAIL]), stream=name, keep=length, priority=Priority.STREAM)
                    for key in ("policy 0", "policy 1")
                ]
                told = await rig.engine.ask(asked)
                check(rig, model, asked, told)
                sizes.update(answer.tokens_run for answer in told if isinstance(answer, Told))
            assert sum(run * times for run, times in sizes.items()) == 2 * (200 + 5 * len(TAIL))
            rig.engine.forget(name)

        await asyncio.gather(*(caller(number) for number in range(12)), *(stream(name) for name in "abc"))
        await rig.settled()
        assert rig.pool.used_pages == rig.resident_pages()
        assert rig.engine.health().queued_tokens == 0


async def test_eviction_and_cold_policies_under_load_change_no_answer(model):
    """Room for about two of six policies, some of which come back from host memory."""
    generator = np.random.default_rng(2)
    async with running(tiny_parts(model, pages=14, host_pages=20, flat=True), batch_tokens=256, prefill_chunk=64) as rig:
        await rig.prepare(*(rig.prefix(f"policy {number}", 200 + 40 * number) for number in range(6)))

        async def caller(number: int) -> None:
            for turn in range(3):
                asked = [ask(f"policy {(number + turn) % 6}", random_tokens(generator, 20))]
                check(rig, model, asked, await rig.engine.ask(asked))

        await asyncio.gather(*(caller(number) for number in range(6)))
        await rig.settled()
        health = rig.engine.health()
        assert health.evictions >= 6
        assert rig.parts.prefixes.counters.reloads > 0
        assert rig.pool.used_pages == rig.resident_pages()


@pytest.mark.parametrize("keep", [0, 700])
async def test_a_text_longer_than_a_batch_runs_in_portions_beside_others(model, keep: int):
    generator = np.random.default_rng(3)
    parts = tiny_parts(model)
    async with running(parts, batch_tokens=256, prefill_chunk=64) as rig:
        await rig.prepare(rig.prefix("p", 100))
        long = ask("p", random_tokens(generator, 1000), stream="s" if keep else None, keep=keep)
        short = [ask("p", random_tokens(generator, 30), tenant="other") for _ in range(5)]
        told = await asyncio.gather(rig.engine.ask([long]), rig.engine.ask(short))
        check(rig, model, [long, *short], [*told[0], *told[1]])
        answer = told[0][0]
        assert isinstance(answer, Told)
        assert answer.tokens_run == 1000
        await rig.settled()
        assert rig.pool.used_pages == rig.resident_pages() + -(-keep // PAGE)


async def test_the_stream_probe_of_a_text_run_in_portions_is_that_of_one_run_whole(model):
    runner = ReferenceRunner(model, pool_for(model), head_of(model, probe=True))
    tokens = random_tokens(np.random.default_rng(4), 400)
    scores = []
    for limit in (512, 128):
        async with running(parts_of(runner), batch_tokens=limit) as rig:
            await rig.prepare(rig.prefix("p", 100))
            (told,) = await rig.engine.ask([ask("p", tokens, stream="s", keep=395, probe=True)])
            assert isinstance(told, Told)
            scores.append(told.read.probe)
        for span in [*rig.parts.prefixes._ready.values()]:
            span.span.drop()
        rig.parts.streams.forget("s")
    assert len(scores[0]) == 395
    assert scores[1] == pytest.approx(scores[0], abs=1e-4)


async def test_no_pass_is_larger_than_the_limit_and_none_holds_two_steps_of_a_stream():
    runner = SumRunner()
    async with running(parts_of(runner), batch_tokens=200, prefill_chunk=50) as rig:
        await rig.prepare(rig.prefix("p", 130), rig.prefix("q", 333))
        rig.engine.forget("s1")
        generator = np.random.default_rng(5)
        asked = []
        for length in generator.integers(1, 450, 60):
            stream = generator.choice(["s1", "s2", ""]) or None
            tokens = generator.integers(3, 490, length)
            asked.append(ask(str(generator.choice(["p", "q"])), tokens, stream=stream, keep=length // 2 if stream else 0))
        told = await asyncio.gather(*(rig.engine.ask([one]) for one in asked))
        for one, (answer,) in zip(asked, told, strict=True):
            assert isinstance(answer, Told), answer
            assert answer.read.one == pytest.approx(score_of(np.concatenate([rig.prefixes[one.prefix], one.tokens])), abs=1e-5)
        assert max(planned.tokens for planned in runner.passes) <= 200
        for planned in runner.passes:
            into = [id(row.into) for row in planned.rows if row.into is not None]
            assert len(into) == len(set(into))
        for name in ("s1", "s2"):
            rig.engine.forget(name)
        await rig.settled()
        assert rig.pool.used_pages == rig.resident_pages()


async def test_whoever_asks_while_a_pass_runs_shares_the_next_one_and_hears_in_one_message():
    runner = SumRunner()
    async with running(parts_of(runner), batch_tokens=1024) as rig:
        await rig.prepare(rig.prefix("p", 100))
        loop = asyncio.get_running_loop()
        messages, threadsafe = [], loop.call_soon_threadsafe

        def counted(callback, *arguments, **named):
            messages.append(callback)
            return threadsafe(callback, *arguments, **named)

        runner.seconds = 0.05
        first = asyncio.create_task(rig.engine.ask([ask("p", [1])]))
        await asyncio.sleep(0.02)
        passes = len(runner.passes)
        loop.call_soon_threadsafe = counted
        try:
            await asyncio.gather(first, *(rig.engine.ask([ask("p", [1, 2])]) for _ in range(50)))
        finally:
            loop.call_soon_threadsafe = threadsafe
        assert len(runner.passes) - passes == 1
        assert len(runner.passes[-1].rows) == 50
        assert len(messages) == 2


async def test_several_event_loops_share_one_engine():
    async with running(parts_of(SumRunner())) as rig:
        await rig.prepare(rig.prefix("p", 100))
        found: list[float] = []

        def elsewhere() -> None:
            async def some() -> None:
                for _ in range(5):
                    told = await rig.engine.ask([ask("p", [4, 5, 6])] * 3)
                    found.extend(one.read.one for one in told if isinstance(one, Told))

            asyncio.run(some())

        threads = [threading.Thread(target=elsewhere) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert found == [pytest.approx(score_of([*rig.prefixes["p"], 4, 5, 6]), abs=1e-5)] * 45


async def test_prepare_returns_when_policies_are_resident_and_live_traffic_goes_on_meanwhile():
    runner = SumRunner()
    async with running(parts_of(runner), batch_tokens=512, prefill_chunk=64) as rig:
        await rig.prepare(rig.prefix("live", 100))
        runner.seconds = 0.002
        going = True

        async def traffic() -> int:
            answers = 0
            while going:
                told = await rig.engine.ask([ask("live", [1, 2, 3])])
                answers += isinstance(told[0], Told)
            return answers

        live = [asyncio.create_task(traffic()) for _ in range(4)]
        await asyncio.sleep(0.02)
        before = len(runner.passes)
        await rig.prepare(rig.prefix("new", 1000))
        mixed = [planned for planned in runner.passes[before:] if any(not row.read for row in planned.rows)]
        going = False
        assert rig.parts.prefixes.resident("new")
        assert sum(await asyncio.gather(*live)) > 40
        chunks = [sum(len(row.tokens) for row in planned.rows if not row.read) for planned in mixed]
        assert max(chunks) == 64, "a chunk was larger than it may be beside live traffic"
        assert all(len([row for row in planned.rows if not row.read]) == 1 for planned in mixed)


async def test_a_new_version_shares_the_unchanged_head_of_the_old():
    runner = SumRunner()
    async with running(parts_of(runner)) as rig:
        old = rig.prefix("old", 640)
        await rig.prepare(old)
        tokens = np.concatenate([old.tokens[:600], [7, 7, 7]]).astype(np.int32)
        before = sum(planned.tokens for planned in runner.passes)
        await rig.prepare(Prefix("new", tokens, base="old"))
        assert sum(planned.tokens for planned in runner.passes) - before == 603 - 600 // PAGE * PAGE
        (told,) = await rig.engine.ask([ask("new", [9])])
        assert isinstance(told, Told)
        assert told.read.one == pytest.approx(score_of([*tokens, 9]), abs=1e-5)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"tokens": np.array([1, 512])}, "malformed"),
        ({"tokens": np.array([-1])}, "malformed"),
        ({"tokens": np.array([], np.int32)}, "malformed"),
        ({"tokens": np.array([[1, 2]])}, "malformed"),
        ({"tokens": np.array([0.5])}, "malformed"),
        ({"keep": 1}, "malformed"),
        ({"keep": 3, "stream": "s"}, "malformed"),
        ({"deadline": 1.0}, "timeout"),
        ({"deadline": float("nan")}, "timeout"),
        ({"prefix": "nobody"}, "not_prepared"),
        ({"tokens": np.ones(8100, np.int32)}, "too_long"),
    ],
)
async def test_what_cannot_be_served_is_told_at_once_and_costs_nothing(wrong: dict[str, Any], code: str):
    runner = SumRunner()
    async with running(parts_of(runner)) as rig:
        await rig.prepare(rig.prefix("p", 100))
        passes = len(runner.passes)
        refused, good = await rig.engine.ask([replace(ask("p", [1, 2]), **wrong), ask("p", [1])])
        assert isinstance(refused, ClassifierError)
        assert refused.code == code
        assert isinstance(good, Told)
        assert len(runner.passes) == passes + 1
        assert rig.engine.health().queued_tokens == 0


@pytest.mark.parametrize(
    ("length", "first", "code"), [(8192, 1, "too_long"), (300, 1, "too_long"), (10, 600, "malformed"), (0, 1, "malformed")]
)
async def test_a_policy_that_can_never_be_served_is_refused_when_it_is_prepared(length: int, first: int, code: str):
    async with running(parts_of(SumRunner(pages=4))) as rig:
        with pytest.raises(ClassifierError) as refused:
            await rig.engine.prepare([Prefix("p", np.full(length, first, np.int32))], deadline=time.monotonic() + 5)
        assert refused.value.code == code
        (told,) = await rig.engine.ask([ask("p", [1])])
        assert isinstance(told, ClassifierError)
        assert told.code == "not_prepared"


async def test_what_waits_is_bounded_and_who_is_refused_is_told_when_to_come_back():
    runner = SumRunner()
    async with running(parts_of(runner), queue_tokens=4000, batch_tokens=500) as rig:
        await rig.prepare(rig.prefix("p", 100))
        runner.seconds = 0.05
        await rig.engine.ask([ask("p", [1] * 100)] * 5)
        began = time.monotonic()
        told = await rig.engine.ask([ask("p", [1] * 100) for _ in range(60)])
        took = time.monotonic() - began
        refused = [one for one in told if isinstance(one, ClassifierError)]
        assert len(refused) == 30
        assert {one.code for one in refused} == {"overloaded"}
        estimate = float(str(refused[-1]).rsplit("try again in ", 1)[1].removesuffix(" s"))
        assert took / 3 <= estimate <= 3 * took
        other = await asyncio.gather(rig.engine.ask([ask("p", [1] * 100)] * 60), rig.engine.ask([ask("p", [1] * 100, tenant="other")]))
        assert isinstance(other[1][0], Told), "one tenant left no room for another"
        assert rig.engine.health().queued_tokens == 0


async def test_a_caller_who_leaves_takes_its_questions_along():
    runner = SumRunner()
    async with running(parts_of(runner)) as rig:
        await rig.prepare(rig.prefix("p", 100))
        runner.seconds = 0.05
        first = asyncio.create_task(rig.engine.ask([ask("p", [1])]))
        await asyncio.sleep(0.02)
        leaving = [asyncio.create_task(rig.engine.ask([ask("p", [2] * 50)])) for _ in range(20)]
        staying = asyncio.create_task(rig.engine.ask([ask("p", [3])]))
        await asyncio.sleep(0)
        for task in leaving:
            task.cancel()
        await asyncio.wait(leaving)
        assert rig.engine.health().queued_tokens <= 2, "room was not given back at once"
        await asyncio.gather(first, staying)
        assert not any((planned.ids == 2).any() for planned in runner.passes[-2:])


async def test_a_policy_that_nobody_waits_for_any_more_gives_its_pages_back():
    runner = SumRunner()
    async with running(parts_of(runner), prefill_chunk=32, batch_tokens=64) as rig:
        await rig.prepare(rig.prefix("p", 100))
        preparing = asyncio.create_task(rig.prepare(rig.prefix("long", 2000)))
        with stopped(runner):
            await asyncio.sleep(0.05)
            preparing.cancel()
            await asyncio.wait([preparing])
        await rig.settled()
        assert not rig.parts.prefixes.resident("long")
        assert rig.pool.used_pages == rig.resident_pages()
        await rig.prepare(rig.prefix("long", 2000))
        assert rig.parts.prefixes.resident("long")


async def test_a_policy_does_not_leave_again_before_those_who_waited_for_it_have_run():
    parts = parts_of(SumRunner(pages=12))
    canary = Canary(VOCABULARY, every_s=1e6, tolerance=1e-3)
    loop = EngineLoop(parts, Limits(), Admission(1000), canary)
    call = Call(2)
    tokens = np.arange(1, 300, dtype=np.int32)
    loop.prepare([Prefix("p", tokens)], [Job("p", 0, 1e18, call=call)])
    loop.submit([Job("p", 3, 1e18, ask=ask("p", [1, 2, 3]), call=call, number=1)])
    while not parts.prefixes.resident("p"):
        loop.turn()
    with pytest.raises(OutOfPages):
        parts.prefixes.make_room(12, tenant="*")
    while not call.answered.done() or canary.expected is None:
        loop.turn()
        await asyncio.sleep(0)
    parts.prefixes.make_room(12, tenant="*")
    loop.close()


async def test_a_deadline_holds_even_inside_a_pass_that_takes_longer():
    runner = SumRunner()
    async with running(parts_of(runner)) as rig:
        await rig.prepare(rig.prefix("p", 100))
        with stopped(runner):
            told = await rig.engine.ask([ask("p", [1], seconds=0.05), ask("p", [2], seconds=0.1)])
            assert [one.code for one in told if isinstance(one, ClassifierError)] == ["timeout", "timeout"]
            with pytest.raises(ClassifierError) as late:
                await rig.prepare(rig.prefix("q", 100), seconds=0.05)
            assert late.value.code == "timeout"


async def test_health_never_waits_for_a_pass():
    runner = SumRunner()
    async with running(parts_of(runner)) as rig:
        await rig.prepare(rig.prefix("p", 100))
        with stopped(runner):
            asking = asyncio.create_task(rig.engine.ask([ask("p", [1])]))
            await asyncio.sleep(0.1)
            health = rig.engine.health()
            assert health.alive
            assert health.heartbeat_age_s > 0.05
            assert health.used_pages + health.free_pages == rig.pool.pages
        await asking


async def test_an_idle_engine_takes_no_processor_time():
    async with running(parts_of(SumRunner())) as rig:
        await rig.prepare(rig.prefix("p", 100))
        await rig.settled()
        began = time.process_time()
        await asyncio.sleep(0.5)
        assert time.process_time() - began < 0.25


async def test_closing_fails_whoever_waits_and_gives_every_page_back_but_the_policies():
    runner = SumRunner()
    async with running(parts_of(runner), batch_tokens=100) as rig:
        await rig.prepare(rig.prefix("p", 100))
        runner.seconds = 0.05
        waiting = asyncio.create_task(rig.engine.ask([ask("p", [1] * 400), ask("p", [1] * 90)]))
        await asyncio.sleep(0.12)
        await rig.engine.aclose()
        await rig.engine.aclose()
        told = await waiting
        assert "crash" in {one.code for one in told if isinstance(one, ClassifierError)}
        assert rig.pool.used_pages == rig.resident_pages()
        (refused,) = await rig.engine.ask([ask("p", [1])])
        assert isinstance(refused, ClassifierError)
        assert refused.code == "crash"
        assert not rig.engine.health().alive
        rig.engine.forget("s")
        assert rig.engine.info is INFO
