"""What goes wrong in an engine: nothing hangs, every waiter gets an answer or an error, and no page is lost."""

import asyncio
import ctypes
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_rig import INFO, NO_NUMBER, POISON, QUIET, VOCABULARY, Rig, SumRunner, ask, parts_of, running, score_of, settings_of, stopped

from guardrail.engine.cope.engine import LocalEngine, Vigils
from guardrail.engine.cope.faults import EngineFault, Isolation
from guardrail.engine.cope.kv import OutOfPages
from guardrail.engine.cope.messages import Priority, Told
from guardrail.engine.cope.process.supervisor import Pauses
from guardrail.engine.cope.rows import Plan
from guardrail.engine.cope.supervise import SupervisedEngine
from guardrail.errors import ClassifierError


def codes(told: list[Told | ClassifierError]) -> Counter[str]:
    return Counter(one.code if isinstance(one, ClassifierError) else "told" for one in told)


def failing(error: Exception, *, times: int = 10**9, when: Callable[[Plan], bool] = lambda planned: True) -> Callable[[Plan], None]:
    """Raise in the next so many passes for which `when` holds."""
    left = [times]

    def before(planned: Plan) -> None:
        if left[0] and when(planned):
            left[0] -= 1
            raise error

    return before


async def assert_pages_are_counted(rig: Rig) -> None:
    await rig.settled()
    assert rig.pool.used_pages == rig.resident_pages()
    assert rig.engine.health().queued_tokens == 0


@pytest.mark.parametrize("poisoned", [[7], [0], [39], [3, 20, 21]])
async def test_poisoned_rows_fail_alone(poisoned: list[int]):
    runner = SumRunner()
    async with running(parts_of(runner)) as rig:
        await rig.prepare(rig.prefix("p", 100))
        asked = [ask("p", [POISON if number in poisoned else number + 1, 5]) for number in range(40)]
        told = await rig.engine.ask(asked)
        assert [number for number, one in enumerate(told) if isinstance(one, ClassifierError)] == poisoned
        for one, answer in zip(asked, told, strict=True):
            if isinstance(answer, Told):
                assert answer.read.one == pytest.approx(score_of([*rig.prefixes["p"], *one.tokens]), abs=1e-5)
        assert codes(told)["crash"] == len(poisoned)
        assert rig.engine.health().alive
        await assert_pages_are_counted(rig)


async def test_a_poisoned_step_fails_alone_and_its_stream_goes_on():
    async with running(parts_of(SumRunner())) as rig:
        await rig.prepare(rig.prefix("p", 100))
        steps = [[1, 2, 3], [1, 2, POISON, 3], [1, 2, 3, 4, 5]]
        told = [(await rig.engine.ask([ask("p", tokens, stream="s", keep=len(tokens) - 1), ask("p", [9])])) for tokens in steps]
        assert [codes(both) for both in told] == [{"told": 2}, {"told": 1, "crash": 1}, {"told": 2}]
        last = told[2][0]
        assert isinstance(last, Told)
        assert last.read.one == pytest.approx(score_of([*rig.prefixes["p"], *steps[2]]), abs=1e-5)
        rig.engine.forget("s")
        await assert_pages_are_counted(rig)


async def test_nothing_but_poison_does_not_end_an_engine_that_is_sound():
    async with running(parts_of(SumRunner())) as rig:
        await rig.prepare(rig.prefix("p", 100))
        for _ in range(10):
            assert codes(await rig.engine.ask([ask("p", [POISON])])) == {"crash": 1}
        assert codes(await rig.engine.ask([ask("p", [1])])) == {"told": 1}


async def test_a_policy_that_cannot_be_run_fails_whoever_waits_for_it_and_nobody_else():
    async with running(parts_of(SumRunner()), prefill_chunk=32, batch_tokens=64) as rig:
        await rig.prepare(rig.prefix("p", 100))
        bad = rig.prefix("bad", 100)
        bad.tokens[90] = POISON
        preparing = asyncio.create_task(rig.prepare(bad))
        await asyncio.sleep(0)
        told = await rig.engine.ask([ask("bad", [1]), ask("p", [1])])
        with pytest.raises(ClassifierError) as failed:
            await preparing
        assert failed.value.code == "crash"
        assert codes(told) == {"crash": 1, "told": 1}
        await assert_pages_are_counted(rig)


async def test_a_row_that_gives_no_number_is_an_error_and_leaves_nothing_in_its_stream():
    async with running(parts_of(SumRunner())) as rig:
        await rig.prepare(rig.prefix("p", 100))
        told = await rig.engine.ask([ask("p", [1, NO_NUMBER, 2], stream="s", keep=2), ask("p", [1])])
        assert codes(told) == {"not_a_number": 1, "told": 1}
        await rig.settled()
        assert rig.engine.health().streams == 0
        await assert_pages_are_counted(rig)


async def test_a_policy_whose_keys_went_wrong_is_computed_anew_and_one_that_answered_is_not():
    runner = SumRunner()
    async with running(parts_of(runner)) as rig:
        await rig.prepare(rig.prefix("p", 100), rig.prefix("q", 100))
        keys = runner.pool.kv[0, 0, 0, :, 0]
        assert codes(await rig.engine.ask([ask("q", [1])])) == {"told": 1}
        await rig.settled()
        keys.fill_(NO_NUMBER)
        told = await rig.engine.ask([ask("p", [1]), ask("q", [1])])
        assert codes(told) == {"not_a_number": 2}
        [again, still] = await rig.engine.ask([ask("p", [1]), ask("q", [1])])
        assert isinstance(again, Told)
        assert again.read.one == pytest.approx(score_of([*rig.prefixes["p"], 1]), abs=1e-5)
        assert isinstance(still, ClassifierError)  # it has answered before, so a text's own fault must not cost its policy's computation
        await assert_pages_are_counted(rig)


@pytest.mark.parametrize("error", [MemoryError("host"), torch.OutOfMemoryError("CUDA out of memory")])
async def test_memory_that_runs_out_once_costs_nobody_an_answer(error: Exception):
    runner = SumRunner()
    async with running(parts_of(runner)) as rig:
        await rig.prepare(rig.prefix("p", 100))
        for rows in (8, 1):
            runner.before = failing(error, times=1)
            assert codes(await rig.engine.ask([ask("p", [number + 1]) for number in range(rows)])) == {"told": rows}
            assert codes(await rig.engine.ask([ask("p", [1])])) == {"told": 1}
        await assert_pages_are_counted(rig)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("host"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        torch.AcceleratorError("device-side assert triggered"),
        SystemExit(1),
        KeyboardInterrupt(),
    ],
)
async def test_what_an_engine_cannot_survive_is_told_to_everybody_at_once(error: BaseException):
    runner = SumRunner()
    async with running(parts_of(runner), batch_tokens=100) as rig:
        await rig.prepare(rig.prefix("p", 100))
        cold = rig.prefix("cold", 1000)
        runner.before = failing(error)
        waiting = [asyncio.create_task(rig.engine.ask([ask("p", [number + 1] * 50)])) for number in range(20)]
        preparing = asyncio.create_task(rig.prepare(cold))
        told = [one for (one,) in await asyncio.gather(*waiting)]
        assert codes(told) == {"crash": 20}
        with pytest.raises(ClassifierError):
            await preparing
        health = rig.engine.health()
        assert not health.alive
        assert health.detail
        began = time.monotonic()
        assert codes(await rig.engine.ask([ask("p", [1])])) == {"crash": 1}
        with pytest.raises(ClassifierError):
            await rig.prepare(cold)
        assert time.monotonic() - began < 0.1


async def test_a_killed_thread_is_told_to_everybody():
    """The thread is ended from outside, between two steps of its interpreter."""
    runner = SumRunner()
    async with running(parts_of(runner)) as rig:
        await rig.prepare(rig.prefix("p", 100))
        runner.seconds = 0.05
        waiting = asyncio.create_task(rig.engine.ask([ask("p", [1]), ask("p", [2])]))
        await asyncio.sleep(0.02)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(rig.engine._thread.ident or 0), ctypes.py_object(SystemExit))
        assert codes(await waiting) == {"crash": 2}
        assert not rig.engine.health().alive


async def test_kill_frees_callers_even_of_a_pass_that_never_ends():
    runner = SumRunner()
    async with running(parts_of(runner), vigils=Vigils(canary_s=1e6, stale_s=0.2, close_s=0.1)) as rig:
        await rig.prepare(rig.prefix("p", 100))
        with stopped(runner):
            hurried = asyncio.create_task(rig.engine.ask([ask("p", [1], seconds=0.1)]))
            waiting = asyncio.create_task(rig.engine.ask([ask("p", [1])]))
            assert codes(await hurried) == {"timeout": 1}
            while rig.engine.health().alive:
                await asyncio.sleep(0.01)
            assert "stood still" in rig.engine.health().detail
            rig.engine.kill("it stands still")
            assert codes(await waiting) == {"crash": 1}
            await rig.engine.aclose()  # does not wait for it either


async def test_a_runner_that_only_fails_ends_the_engine():
    """Whatever it says: its canary fails with everything else."""
    runner = SumRunner()
    async with running(parts_of(runner)) as rig:
        await rig.prepare(rig.prefix("p", 100))
        runner.before = failing(ValueError("broken"))
        told = await rig.engine.ask([ask("p", [number + 1]) for number in range(64)])
        assert codes(told) == {"crash": 64}
        while rig.engine.health().alive:
            await asyncio.sleep(0.01)
        assert "canary" in rig.engine.health().detail


@pytest.mark.parametrize("drift", [0.5, float("nan")])
async def test_a_canary_whose_score_moves_ends_the_engine_unasked(drift: float):
    runner = SumRunner()
    async with running(parts_of(runner), vigils=Vigils(canary_s=0.05, close_s=5.0)) as rig:
        while rig.engine.health().batches < 4:
            assert rig.engine.health().alive
            await asyncio.sleep(0.01)
        runner.drift = drift
        while rig.engine.health().alive:
            await asyncio.sleep(0.01)
        assert "canary" in rig.engine.health().detail


async def test_the_canary_is_judged_under_full_load_too():
    runner = SumRunner()
    async with running(parts_of(runner), vigils=Vigils(canary_s=0.1, close_s=5.0), batch_tokens=64) as rig:
        await rig.prepare(rig.prefix("p", 100))
        runner.seconds = 0.005

        async def caller() -> Counter[str]:
            found = Counter[str]()
            while not found["crash"]:
                found += codes(await rig.engine.ask([ask("p", [1] * 30)] * 4))
            return found

        callers = [asyncio.create_task(caller()) for _ in range(8)]
        await asyncio.sleep(0.3)
        runner.drift = 1.0
        async with asyncio.timeout(5):
            found = await asyncio.gather(*callers)
        assert min(one["told"] for one in found) > 0


async def test_a_storm_of_ten_thousand_of_which_half_leave():
    runner = SumRunner()
    async with running(parts_of(runner), queue_tokens=10**6, batch_tokens=1024) as rig:
        await rig.prepare(rig.prefix("p", 100), rig.prefix("q", 100))
        generator = np.random.default_rng(1)
        calls = [
            asyncio.create_task(rig.engine.ask([ask("pq"[number % 2], tokens, priority=Priority(number % 4), tenant=str(number % 5))]))
            for number, tokens in enumerate(generator.integers(1, 400, (10_000, 8)))
        ]
        for number, call in enumerate(calls):
            if number % 2:
                asyncio.get_running_loop().call_later(0.0001 * (number % 4000), call.cancel)
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(one, list) and codes(one) == {"told": 1} for one in done[::2])
        assert all(isinstance(one, asyncio.CancelledError) or codes(one) == {"told": 1} for one in done[1::2])
        assert sum(len(planned.rows) for planned in runner.passes) < 10_000
        await assert_pages_are_counted(rig)
        assert len(rig.engine._loop._scheduler) == 0
        assert not rig.engine._callers._calls


async def test_policies_that_come_and_go_under_load():
    """Forty policies in a pool for four, streams beside them, callers that leave: every answer right, every page found again."""
    runner = SumRunner(pages=24)
    parts = parts_of(runner, host_pages=30, stream_pages=6)
    async with running(parts, prefill_chunk=64, batch_tokens=256) as rig:
        await rig.prepare(*(rig.prefix(f"{number}", 150 + 10 * (number % 8)) for number in range(40)))
        generator = np.random.default_rng(2)

        async def caller(number: int) -> None:
            stream = f"s{number}" if number % 3 == 0 else None
            content = generator.integers(1, 490, 120)
            for turn in range(6):
                key = str((number if stream else generator.integers(40)) % 40)
                tokens = content[: 20 * turn + 15]
                one = ask(key, tokens, stream=stream, keep=len(tokens) - 5 if stream else 0)
                if number % 7 == 6:
                    gone = asyncio.create_task(rig.engine.ask([one]))
                    await asyncio.sleep(0.002)
                    gone.cancel()
                    continue
                (told,) = await rig.engine.ask([one])
                assert isinstance(told, Told), told
                assert told.read.one == pytest.approx(score_of([*rig.prefixes[key], *tokens]), abs=1e-5)
            if stream:
                rig.engine.forget(stream)

        await asyncio.gather(*(caller(number) for number in range(40)))
        await assert_pages_are_counted(rig)
        assert rig.engine.health().evictions > 40


@pytest.mark.parametrize("seed", range(4))
async def test_anything_at_once_ends_in_answers_or_errors_and_with_every_page(seed: int):
    """Long texts, streams, cold policies, poison, callers in a hurry and callers that leave, streams forgotten at any time, and passes
    that fail now and then, in a pool that is too small for them."""
    generator = np.random.default_rng(seed)
    runner = SumRunner(pages=30)

    def before(planned: Plan) -> None:
        chance = generator.random()
        if chance < 0.02:
            raise ValueError("now and then")
        if chance < 0.04:
            raise OutOfPages(1, 0)

    async with running(parts_of(runner, host_pages=20, stream_pages=8), batch_tokens=128, prefill_chunk=32) as rig:
        await rig.prepare(*(rig.prefix(f"{number}", int(generator.integers(20, 300))) for number in range(12)))
        runner.before = before
        found = Counter[str]()

        async def caller(number: int) -> None:
            rolls = np.random.default_rng([seed, number])
            stream = f"s{number % 5}" if number % 2 else None
            content = rolls.integers(1, 490, 500)
            for _ in range(8):
                keys = [str(key) for key in rolls.integers(12, size=2)]
                size = int(rolls.choice([3, 30, 90, 200, 450]))
                tokens = content[:size].copy()
                if rolls.random() < 0.05:
                    tokens[-1] = POISON
                keep = int(rolls.integers(size + 1)) if stream else 0
                asked = [
                    ask(key, tokens, stream=stream, keep=keep, tenant=str(number % 3), seconds=float(rolls.choice([0.02, 20, 20, 20])))
                    for key in keys
                ]
                asking = asyncio.create_task(rig.engine.ask(asked))
                if rolls.random() < 0.15:
                    await asyncio.sleep(0.01 * rolls.random())
                    asking.cancel()
                    await asyncio.wait([asking])
                    continue
                told = await asking
                found.update(codes(told))
                for one, answer in zip(asked, told, strict=True):
                    if isinstance(answer, Told):
                        assert answer.read.one == pytest.approx(score_of([*rig.prefixes[one.prefix], *one.tokens]), abs=1e-5)
                if stream and rolls.random() < 0.2:
                    rig.engine.forget(stream)

        await asyncio.gather(*(caller(number) for number in range(24)))
        for number in range(5):
            rig.engine.forget(f"s{number}")
        assert set(found) <= {"told", "crash", "timeout", "overloaded"}
        assert found["told"] > 150
        await assert_pages_are_counted(rig)


async def test_a_stream_whose_pages_went_to_others_is_run_whole_and_within_the_limit():
    runner = SumRunner(pages=16)
    async with running(parts_of(runner, stream_pages=8), batch_tokens=128) as rig:
        await rig.prepare(rig.prefix("p", 64), rig.prefix("other", 12 * 64))
        content = np.arange(1, 401)
        for size in (300, 310):
            (told,) = await rig.engine.ask([ask("p", content[: size + 5], stream="s", keep=size)])
        assert isinstance(told, Told)
        assert told.tokens_run == 15
        assert codes(await rig.engine.ask([ask("other", [1])])) == {"told": 1}  # there is room for it without the stream only
        rows = [ask("p", content[:325], stream="s", keep=320), *(ask("other", [number + 1] * 30) for number in range(6))]
        told, *others = await rig.engine.ask(rows)
        assert isinstance(told, Told)
        assert told.tokens_run == 325
        assert told.read.one == pytest.approx(score_of([*rig.prefixes["p"], *content[:325]]), abs=1e-5)
        assert codes(others) == {"told": 6}
        assert max(planned.tokens for planned in runner.passes) <= 128
        rig.engine.forget("s")
        await assert_pages_are_counted(rig)


async def test_who_finds_no_pages_waits_without_haste_and_is_told_in_the_end():
    runner = SumRunner(pages=8)
    async with running(parts_of(runner, stream_pages=0), batch_tokens=64) as rig:
        await rig.prepare(rig.prefix("p", 64))
        pinned = rig.parts.prefixes.acquire("p", "*")  # somebody holds what the pool is full of
        assert pinned is not None
        began, passes = time.process_time(), len(runner.passes)
        told = await rig.engine.ask([ask("p", [1] * 600, seconds=0.4), ask("p", [1] * 10)])
        assert codes(told) == {"overloaded": 1, "told": 1}
        assert "pages" in str(told[0])
        with pytest.raises(ClassifierError) as refused:
            await rig.prepare(rig.prefix("q", 8 * 64), seconds=0.4)
        assert refused.value.code == "overloaded"
        assert time.process_time() - began < 0.4, "it waited in a spin"
        assert len(runner.passes) - passes <= 3
        rig.parts.prefixes.release(pinned)
        assert codes(await rig.engine.ask([ask("p", [1] * 300)])) == {"told": 1}
        await assert_pages_are_counted(rig)


async def test_a_long_text_that_found_no_pages_runs_once_there_are_some():
    runner = SumRunner(pages=12)
    async with running(parts_of(runner, stream_pages=0), batch_tokens=64) as rig:
        await rig.prepare(rig.prefix("p", 64), rig.prefix("big", 7 * 64))
        pinned = rig.parts.prefixes.acquire("big", "*")
        assert pinned is not None
        waiting = asyncio.create_task(rig.engine.ask([ask("p", [3] * 500)]))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        rig.engine._loop.post(lambda: rig.parts.prefixes.release(pinned))
        (told,) = await waiting
        assert isinstance(told, Told)
        assert told.read.one == pytest.approx(score_of([*rig.prefixes["p"], *[3] * 500]), abs=1e-5)
        await assert_pages_are_counted(rig)


async def test_a_loop_that_is_blocked_holds_up_nobody_else():
    runner = SumRunner()
    async with running(parts_of(runner)) as rig:
        await rig.prepare(rig.prefix("p", 100))
        asked, awake = threading.Event(), threading.Event()
        slow: list[Told | ClassifierError] = []

        def consumer() -> None:
            async def some() -> None:
                waiting = asyncio.create_task(rig.engine.ask([ask("p", [1])] * 50))
                await asyncio.sleep(0)
                asked.set()
                awake.wait(10)  # its event loop does nothing meanwhile
                slow.extend(await waiting)

            asyncio.run(some())

        thread = threading.Thread(target=consumer)
        thread.start()
        await asyncio.to_thread(asked.wait)
        for _ in range(20):
            assert codes(await rig.engine.ask([ask("p", [2])])) == {"told": 1}
        assert not slow
        awake.set()
        await asyncio.to_thread(thread.join)
        assert codes(slow) == {"told": 50}


async def test_a_loop_that_is_closed_holds_up_nobody_else():
    runner = SumRunner()
    async with running(parts_of(runner)) as rig:
        await rig.prepare(rig.prefix("p", 100))
        runner.seconds = 0.1

        def gone() -> None:
            loop = asyncio.new_event_loop()
            asking = loop.create_task(rig.engine.ask([ask("p", [1])]))
            loop.run_until_complete(asyncio.sleep(0))
            asking._log_destroy_pending = False
            loop.close()

        thread = threading.Thread(target=gone)
        thread.start()
        await asyncio.to_thread(thread.join)
        assert codes(await rig.engine.ask([ask("p", [2])])) == {"told": 1}
        assert rig.engine.health().alive


def test_an_isolation_finds_each_bad_row_in_few_passes():
    passes = []

    def run(rows: list[int]) -> list[int]:
        passes.append(len(rows))
        if 77 in rows:
            raise ValueError("bad")
        return rows

    found = Isolation().run(run, list(range(100)))
    assert [number for number, one in enumerate(found) if isinstance(one, Exception)] == [77]
    assert len(passes) <= 2 * 7 + 1


def test_an_isolation_gives_up_what_is_hopeless_and_lets_go_of_pages_quietly():
    passes = []

    def run(rows: list[int]) -> list[int]:
        passes.append(rows)
        raise OutOfPages(1, 0) if rows == [0] else ValueError("bad")

    found = Isolation().run(run, list(range(1000)))
    assert all(isinstance(one, ValueError) for one in found)
    assert len(passes) < 40
    assert isinstance(Isolation().run(run, [0])[0], OutOfPages)
    with pytest.raises(EngineFault, match="twice"):
        Isolation().run(failing(MemoryError()), [1])


async def test_an_engine_that_dies_is_started_again_with_its_policies():
    runners: list[SumRunner] = []
    refusals = [OSError("not yet")]

    async def opener() -> LocalEngine:
        if runners and refusals:
            raise refusals.pop()
        runners.append(SumRunner())
        return await LocalEngine(parts_of(runners[-1]), INFO, settings_of(), vocabulary=VOCABULARY, vigils=QUIET).open()

    async with asyncio.timeout(20):
        engine = await SupervisedEngine(opener, pauses=Pauses(first_s=0.05), watch_s=0.01).open()
        rig = Rig(engine, parts_of(SumRunner()))
        await rig.prepare(rig.prefix("p", 100))
        runners[0].before = failing(RuntimeError("CUDA error: unspecified launch failure"))
        assert codes(await engine.ask([ask("p", [1])])) == {"crash": 1}
        while engine.starts == 1:
            health = engine.health()
            assert not health.alive
            assert codes(await engine.ask([ask("p", [1])])) == {"crash": 1}
            await asyncio.sleep(0.01)
        assert len(runners) == 2
        assert not refusals, "the opener's first failure was not survived"
        (told,) = await engine.ask([ask("p", [1])])
        assert isinstance(told, Told)
        assert told.read.one == pytest.approx(score_of([*rig.prefixes["p"], 1]), abs=1e-5)
        assert engine.health().alive
        assert engine.info is INFO
        await engine.aclose()
        assert codes(await engine.ask([ask("p", [1])])) == {"crash": 1}


async def test_an_engine_that_comes_back_with_another_model_is_not_used():
    """Whoever asks has prompts, and names verdicts, for the model that was there first."""
    infos = [INFO, replace(INFO, model="sha256:bb"), INFO]
    runners: list[SumRunner] = []

    async def opener() -> LocalEngine:
        runners.append(SumRunner())
        info = infos[len(runners) - 1]
        return await LocalEngine(parts_of(runners[-1]), info, settings_of(), vocabulary=VOCABULARY, vigils=QUIET).open()

    async with asyncio.timeout(20):
        engine = await SupervisedEngine(opener, pauses=Pauses(first_s=0.05), watch_s=0.01).open()
        rig = Rig(engine, parts_of(SumRunner()))
        await rig.prepare(rig.prefix("p", 100))
        runners[0].before = failing(RuntimeError("CUDA error: unspecified launch failure"))
        await engine.ask([ask("p", [1])])
        said = set[str]()
        while engine.starts == 1:
            said.add(engine.health().detail)
            await asyncio.sleep(0.01)
        assert any("sha256:bb" in detail and "restart" in detail for detail in said)
        assert len(runners) == 3
        assert engine.info == INFO
        await engine.aclose()
