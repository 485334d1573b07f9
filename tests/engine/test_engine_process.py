"""The engine's process: it is brought back when it dies, is ended when it is stuck, and goes when nobody wants it any more."""

import asyncio
import logging
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import stand_in
from stand_in import FATAL, HANGING, STUCK, no_defects, tokens, told

from guardrail.engine.cope.messages import Ask, Prefix
from guardrail.engine.cope.process.client import Patience, SocketEngine
from guardrail.engine.cope.process.orders import Orders
from guardrail.engine.cope.process.supervisor import Pauses, Supervisor, Vigilance
from guardrail.engine.cope.settings import EngineSettings
from guardrail.errors import GuardrailError

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, stand_in.__file__)
PREFIX = Prefix("p", tokens(3, 1, 4))

PARENT = f"""
import asyncio, sys
from pathlib import Path
from guardrail.engine.cope.process.orders import Orders
from guardrail.engine.cope.process.supervisor import Supervisor
from guardrail.engine.cope.settings import EngineSettings

async def main():
    async with Supervisor({COMMAND!r}, Orders("cope", sys.argv[1], EngineSettings("tiny"))) as supervisor:
        print(supervisor.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture(autouse=True)
async def sound() -> AsyncIterator[None]:
    async with no_defects():
        yield


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "engine.sock"


def supervisor(path: Path, *, model: str = "tiny", silent_s: float = 30.0, command: tuple[str, ...] = COMMAND) -> Supervisor:
    orders = Orders("cope", str(path), EngineSettings(model))
    return Supervisor(command, orders, vigilance=Vigilance(silent_s=silent_s), pauses=Pauses(first_s=0.02, most_s=0.1))


@asynccontextmanager
async def client(path: Path) -> AsyncIterator[SocketEngine]:
    engine = SocketEngine(path, patience=Patience(open_s=20.0, pause_s=0.1, grace_s=60.0))
    await engine.open()
    try:
        await engine.prepare([PREFIX], deadline=time.monotonic() + 20)
        yield engine
    finally:
        await engine.aclose()


def ask(*ids: int) -> Ask:
    return Ask("p", tokens(*ids), time.monotonic() + 60)


async def has_ended(process: int) -> bool:
    """Whether a process ends within 20 seconds."""
    handle = os.pidfd_open(process)
    try:
        return bool((await asyncio.to_thread(select.select, [handle], [], [], 20))[0])
    finally:
        os.close(handle)


async def test_killed_with_waiters_it_comes_back_and_answers_as_before(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "guardrail.engine")
    async with supervisor(path) as kept, client(path) as one, client(path) as two:
        before = await one.ask([ask(2, 7)])
        assert before == [told(PREFIX.tokens, [2, 7])]
        waiting = [asyncio.create_task(each.ask([ask(STUCK), ask(5)])) for each in (one, two) for _ in range(10)]
        assert await one.ask([ask(2, 7)]) == await two.ask([ask(2, 7)])  # so the others are outstanding by now
        killed = kept.pid
        os.kill(killed, signal.SIGKILL)
        async with asyncio.timeout(5):
            answers = await asyncio.gather(*waiting)
        assert {answer.code for pair in answers for answer in pair} == {"crash"}
        assert not one.health().alive
        assert [answer.code for answer in await one.ask([ask(5)])] == ["crash"]
        async with asyncio.timeout(20):
            await asyncio.gather(one.up(), two.up())
        assert one.health().alive
        assert (kept.starts, kept.pid == killed) == (2, False)
        assert (await one.ask([ask(2, 7)]), await two.ask([ask(2, 7)])) == (before, before)
        last = kept.pid
    assert [line for line in caplog.messages if "ended by signal 9" in line] == [
        "the engine of classifier cope was ended by signal 9; the next one starts in 0.0 s"
    ]
    with pytest.raises(ProcessLookupError):
        os.kill(last, 0)
    assert not path.exists()


async def test_an_engine_that_died_or_hangs_is_replaced(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with supervisor(path, silent_s=3) as kept, client(path) as engine:
        for fatal, said in ((FATAL, "exited with status 3"), (HANGING, "was ended by signal 9: it said nothing for 3 s")):
            starts = kept.starts
            async with asyncio.timeout(20):
                await engine.ask([ask(fatal)])
                while kept.starts == starts:
                    await asyncio.sleep(0.01)
                while not engine.health().alive:
                    await asyncio.sleep(0.01)
            assert said in caplog.text
            assert await engine.ask([ask(5)]) == [told(PREFIX.tokens, [5])]


async def test_an_engine_that_cannot_start_says_why_in_its_own_words(path: Path) -> None:
    with pytest.raises(GuardrailError, match=r"^there is no model `missing`; run `guardrail model merge`$"):
        await supervisor(path, model="missing").__aenter__()
    with pytest.raises(GuardrailError, match="did not start: exited with status 7"):
        await supervisor(path, command=(sys.executable, "-c", "import sys; sys.stdin.read(1); sys.exit(7)")).__aenter__()
    with pytest.raises(GuardrailError, match="did not start: could not be started"):
        await supervisor(path, command=("/no/such/program",)).__aenter__()
    with pytest.raises(GuardrailError, match="does not report as it should"):
        await supervisor(path, command=(sys.executable, "-c", "print('hello')")).__aenter__()


async def test_it_does_not_outlive_who_started_it(path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, str(path), stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    async with asyncio.timeout(20):
        engine = int(await parent.stdout.readline())
    ended = asyncio.create_task(has_ended(engine))
    parent.kill()
    await parent.wait()
    assert await ended
    assert not path.exists()


async def test_told_to_end_it_first_lets_its_clients_finish(path: Path) -> None:
    async with supervisor(path) as kept:
        assert kept.pid is not None
        ended = asyncio.create_task(has_ended(kept.pid))
        async with client(path) as engine:
            os.kill(kept.pid, signal.SIGINT)
            os.kill(kept.pid, signal.SIGTERM)
            assert await engine.ask([ask(5)]) == [told(PREFIX.tokens, [5])]
        assert await ended


def test_pauses_grow_while_it_dies_young_and_start_again_after_a_calm_life() -> None:
    pauses = Pauses(first_s=1.0, most_s=5.0, calm_s=60.0)
    assert [pauses.after(lived) for lived in (1, 1, 1, 1, 70, 1, 1)] == [1, 2, 4, 5, 1, 1, 2]
