"""The real engine behind a socket: the same numbers to the last bit, and what a client leaves behind is given back."""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_rig import INFO, ask, parts_of, running
from stand_in import no_defects
from tiny_models import TAIL, head_of, pool_for, random_tokens, tiny_gemma2

from guardrail.config.cope import CopeClassifier
from guardrail.engine.cope.messages import Told
from guardrail.engine.cope.process.client import SocketEngine
from guardrail.engine.cope.process.server import EngineServer
from guardrail.engine.cope.reference import ReferenceRunner
from guardrail.engine.cope.section import engine_settings
from guardrail.engine.cope.settings import GIB, EngineSettings
from guardrail.errors import ClassifierError

torch.set_num_threads(1)


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "engine.sock"


@asynccontextmanager
async def client(path: Path):
    engine = SocketEngine(path)
    await engine.open()
    try:
        yield engine
    finally:
        await engine.aclose()


async def test_numbers_are_the_engines_own_and_a_client_that_leaves_leaves_no_pages_behind(path: Path) -> None:
    model, generator = tiny_gemma2(num_hidden_layers=2), np.random.default_rng(5)
    pool = pool_for(model, 128)
    parts = parts_of(ReferenceRunner(model, pool, head_of(model, probe=True)))
    async with no_defects(), running(parts) as rig, EngineServer(rig.engine, path) as server:
        first, second = rig.prefix("one", 70), rig.prefix("two", 200)
        async with client(path) as through:
            assert through.info == INFO
            await through.prepare([first, second], deadline=ask("", []).deadline)
            asked = [ask(key, random_tokens(generator, size)) for key in ("one", "two") for size in (1, 17, 130)]
            asked += [ask("one", []), ask("one", [10**6]), ask("unknown", [5]), ask("two", random_tokens(generator, 8100))]
            direct, told = await rig.engine.ask(asked), await through.ask(asked)
            assert [error.code for error in told[6:]] == ["malformed", "malformed", "not_prepared", "too_long"]
            assert [(error.code, str(error)) for error in told[6:]] == [(error.code, str(error)) for error in direct[6:]]
            assert told[:6] == direct[:6]
            content, runs = random_tokens(generator, 150), []
            for length in (60, 100, 150):
                step = ask("one", np.concatenate([content[:length], TAIL]), stream="answer", keep=length, probe=True)
                (here,), (there,) = await rig.engine.ask([step]), await through.ask([step])
                assert isinstance(there, Told)
                assert (there.read, there.tokens_run) == (here.read, here.tokens_run)
                runs.append((there.tokens_run, len(there.read.probe)))
            assert runs == [(60 + len(TAIL), 60), (40 + len(TAIL), 40), (50 + len(TAIL), 50)]
            rig.engine.forget("answer")
            assert rig.parts.streams.counters.streams == 2
        await asyncio.wait_for(server.alone(), 10)
        await rig.settled()
        assert rig.parts.streams.counters.streams == 0
        assert pool.used_pages == rig.resident_pages()


async def test_a_dead_engine_fails_who_waits_and_health_says_so_through_the_socket(path: Path) -> None:
    model = tiny_gemma2(num_hidden_layers=2)
    parts = parts_of(ReferenceRunner(model, pool_for(model, 128), head_of(model)))
    async with no_defects(), running(parts) as rig, EngineServer(rig.engine, path, health_s=0.02), client(path) as through:
        await through.prepare([rig.prefix("one", 70)], deadline=ask("", []).deadline)
        waiting = [asyncio.create_task(through.ask([ask("one", list(range(3, 400)))])) for _ in range(30)]
        await through.ask([ask("one", [5])])
        rig.engine.kill("the device is gone")
        for answers in await asyncio.gather(*waiting):
            assert [type(answer) is Told or answer.code for answer in answers] in ([True], ["crash"])
        [error] = await through.ask([ask("one", [5])])
        assert isinstance(error, ClassifierError)
        assert (error.code, "the device is gone" in str(error)) == ("crash", True)
        async with asyncio.timeout(10):
            while through.health().alive:
                await asyncio.sleep(0.01)
        assert "the device is gone" in through.health().detail


def test_a_section_becomes_settings_with_its_paths_and_sizes(tmp_path: Path) -> None:
    (tmp_path / "merged").mkdir()
    section = CopeClassifier.model_validate(
        {
            "kind": "cope",
            "model": "merged",
            "kv_gib": 0.5,
            "host_gib": 0,
            "tenant_floor_gib": {"acme": 0.25},
            "probe": "probe",
            "threads": 3,
        }
    )
    assert engine_settings(section, tmp_path) == EngineSettings(
        str(tmp_path / "merged"),
        threads=3,
        kv_bytes=GIB // 2,
        host_bytes=0,
        tenant_floor_bytes={"acme": GIB // 4},
        probe=str(tmp_path / "probe"),
    )
    hub = engine_settings(CopeClassifier(kind="cope", model="owner/name"), tmp_path)
    assert (hub.model, hub.kv_bytes, hub.host_bytes, hub.probe) == ("owner/name", None, 4 * GIB, None)
