"""An engine out of a folder and settings: the runner that fits, the memory that is there, and answers that are the naive ones."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_checkpoints import quiet, tiny_checkpoint
from tiny_models import naive, pool_for, probability, tiny_gemma2, tiny_llama, tiny_qwen2

from guardrail.engine.cope import runners
from guardrail.engine.cope.build import build_engine, kv_budget, open_engine
from guardrail.engine.cope.checkpoint import load_checkpoint
from guardrail.engine.cope.flat import FlatRunner
from guardrail.engine.cope.gpu_runners import proven
from guardrail.engine.cope.head import AnswerHead
from guardrail.engine.cope.messages import Ask, EngineClient, Prefix, Told
from guardrail.engine.cope.packed_weights import PackedWeights
from guardrail.engine.cope.runner import Runner
from guardrail.engine.cope.runners import Ground, candidates, make_runner, pack
from guardrail.engine.cope.settings import GIB, EngineSettings
from guardrail.errors import DoesNotFitError, GuardrailError, ModelFileError

MIB = 1 << 20
CPU, GPU = torch.device("cpu"), torch.device("cuda")
BODY = "## Overview\n\nInsults are not allowed.\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with quiet():
        return tiny_checkpoint(tmp_path_factory.mktemp("merged"))


def settings_for(folder: Path, **named) -> EngineSettings:
    return replace(EngineSettings(str(folder), kv_bytes=64 * MIB, host_bytes=8 * MIB), **named)


@pytest.mark.parametrize(("runner", "made"), [("auto", "cpu"), ("reference", "reference")])
async def test_an_engine_from_a_folder_gives_the_naive_answers(folder: Path, runner, made: str):
    async with asyncio.timeout(60):
        settings = settings_for(folder, runner=runner)
        loaded = load_checkpoint(folder, device="cpu")
        engine: EngineClient = await build_engine(settings, loaded).open()
        assert engine.info.runner == made
        assert engine.info.model == loaded.manifest.digest
        assert engine.info.dtype == "float32"
        tokens = loaded.tokens
        prefix, rows = tokens.prefix(BODY), [tokens.row(text).tokens for text in ("Good morning.", "You are a fool, she said.")]
        deadline = time.monotonic() + 30
        await engine.prepare([Prefix("p", prefix)], deadline=deadline)
        told = await engine.ask([Ask("p", row, deadline) for row in rows])
        for row, one in zip(rows, told, strict=True):
            assert isinstance(one, Told)
            expected = naive(loaded.model, np.concatenate([prefix, row]), tokens.zero, tokens.one)
            assert probability(one.read) == pytest.approx(expected, abs=1e-4)
        await engine.aclose()


async def test_opening_loads_builds_and_starts(folder: Path):
    async with asyncio.timeout(60):
        engine = await open_engine(settings_for(folder, device="cpu", quantise="int8"))
        assert engine.health().alive
        assert engine.info.quantisation == "int8"
        await engine.aclose()


async def test_a_folder_that_is_not_there_is_told_as_such(tmp_path: Path):
    with pytest.raises(ModelFileError):
        await open_engine(EngineSettings(str(tmp_path / "nowhere")))


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"kv_bytes": 1 << 50}, "kv_bytes"),
        ({"kv_bytes": 1000}, "budget"),
        ({"tenant_floor_bytes": {"a": GIB}}, "floors"),
        ({"runner": "cuda"}, "needs a GPU"),
    ],
)
def test_what_cannot_be_divided_is_refused_with_a_remedy(folder: Path, named, said: str):
    loaded = load_checkpoint(folder, device="cpu")
    with pytest.raises(GuardrailError, match=said):
        build_engine(settings_for(folder, **named), loaded)


def test_pages_take_what_was_asked_for_or_a_part_of_what_is_free():
    assert kv_budget(EngineSettings("m", kv_bytes=5 * MIB), CPU) == 5 * MIB
    assert 0 < kv_budget(EngineSettings("m"), CPU) <= 8 * GIB
    with pytest.raises(DoesNotFitError, match="lower it"):
        kv_budget(EngineSettings("m", kv_bytes=1 << 50), CPU)


def test_the_runner_is_the_fastest_that_serves_a_model_on_its_device():
    gemma, llama = tiny_gemma2(num_hidden_layers=1), tiny_llama(num_hidden_layers=1)
    assert candidates("auto", gemma, CPU)[0] == "cpu"
    assert candidates("auto", gemma, GPU) == ("cuda", "flex", "reference")
    assert candidates("auto", llama, GPU) == ("reference",)
    assert candidates("flex", gemma, GPU) == ("flex",)
    with pytest.raises(GuardrailError, match="on a GPU"):
        candidates("cpu", gemma, GPU)
    with pytest.raises(GuardrailError, match="needs a GPU"):
        candidates("flex", gemma, CPU)


def test_a_model_that_the_fast_runners_do_not_cover_gets_the_reference_or_an_explanation():
    odd = tiny_gemma2(num_hidden_layers=1, attn_logit_softcapping=None)
    assert pack(("cpu", "reference"), odd, {}) is None
    ground = Ground(odd, pool_for(odd), AnswerHead.of(odd, 10, 11), 512, 512)
    assert make_runner(("cpu", "reference"), ground, None).name == "reference"
    with pytest.raises(GuardrailError, match="soft-cap"):
        pack(("cpu",), odd, {})
    with pytest.raises(GuardrailError, match="does not serve"):
        pack(("cpu",), tiny_qwen2(num_hidden_layers=1), {})


def proven_flat(ground: Ground, weights: PackedWeights) -> Runner:
    """Stands where a GPU's runners do: a fast runner that has to agree with the reference."""
    return proven(FlatRunner(weights, ground.pool, ground.head), ground)


def test_a_runner_that_computes_other_scores_does_not_start_and_the_next_one_is_tried(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runners, "GPU_RUNNERS", {"cuda": f"{__name__}:proven_flat", "flex": f"{__name__}:proven_flat"})
    model = tiny_gemma2(num_hidden_layers=2)
    ground = Ground(model, pool_for(model), AnswerHead.of(model, 10, 11), 1024, 512)
    right = pack(("cuda",), model, {})
    assert right is not None
    assert make_runner(("cuda", "flex", "reference"), ground, right).name == "cpu"
    wrong = replace(right, embed_scale=right.embed_scale * 0.8)
    with pytest.raises(GuardrailError, match="fixed questions"):
        make_runner(("cuda",), ground, wrong)
    assert make_runner(("cuda", "flex", "reference"), ground, wrong).name == "reference"
    assert ground.pool.used_pages == 0


def test_what_serves_a_cpu_does_not_need_triton():
    """Only `cuda/` imports it, of which the engine's other files name nothing that does, but in the table that is read on a GPU."""
    package = Path(runners.__file__).parent
    needing = {"runner", "buckets", *(path.stem for path in (package / "cuda").glob("*.py") if "import triton" in path.read_text())}
    importing = {
        path.name
        for path in package.glob("*.py")
        for line in path.read_text().splitlines()
        if line.startswith(("from", "import")) and any(f"cuda.{name} import" in line for name in needing)
    }
    assert importing == {"gpu_runners.py"}
    assert not any("gpu_runners import" in path.read_text() for path in package.glob("*.py"))
    assert set(runners.GPU_RUNNERS) == {"cuda", "flex"}
