"""An engine out of its settings: model, pages, runner, stores and the thread, put together in the order in which memory allows it."""

import asyncio
import logging

import torch

from guardrail.engine.cope.checkpoint import LoadedModel, load_checkpoint
from guardrail.engine.cope.composing import Parts
from guardrail.engine.cope.cuda.check import BANDS
from guardrail.engine.cope.engine import LocalEngine, Vigils
from guardrail.engine.cope.head import AnswerHead
from guardrail.engine.cope.kv import PAGE, KVPool, KVShape
from guardrail.engine.cope.memory import GIB, available, gib
from guardrail.engine.cope.messages import EngineInfo
from guardrail.engine.cope.prefixes import PrefixStore
from guardrail.engine.cope.probe import ProbeWeights
from guardrail.engine.cope.runner import Runner
from guardrail.engine.cope.runners import Ground, candidates, make_runner, pack
from guardrail.engine.cope.settings import EngineSettings
from guardrail.engine.cope.streams import StreamStore
from guardrail.errors import DoesNotFitError

_GPU_RESERVE = 4 * GIB  # activations, graphs, the tables of the kernels' libraries; a tenth of a smaller GPU
_MOST_CPU = 8 * GIB  # a host is shared with others; more is had by asking for it
_SLOWEST_PASS_S = {"cpu": 900.0, "cuda": 60.0}  # a thousand tokens of nine billion parameters take minutes on a few cores
_PROBABILITY = 1e-3  # how far the canary's score may move where nothing is known of a dtype

logger = logging.getLogger("guardrail.engine")


async def open_engine(settings: EngineSettings) -> LocalEngine:
    """Load, build, start; returns when it answers. Takes seconds to minutes, off the event loop.

    Raises GuardrailError: for a model that is missing or altered, that does not fit, or that the chosen runner does not serve.
    """
    engine = await asyncio.to_thread(_built, settings)
    return await engine.open()


def build_engine(settings: EngineSettings, loaded: LoadedModel) -> LocalEngine:
    """Put an engine together around a loaded model; `open` it before use. The model is the engine's from now on: let go of it.

    Raises GuardrailError where pages do not fit or the chosen runner does not serve the model.
    """
    model = loaded.model
    device, config = model.device, model.config
    if device.type == "cpu":
        torch.set_num_threads(settings.threads)
    names = candidates(settings.runner, model, device)
    weights = pack(names, model, loaded.projections)
    probe = None if settings.probe is None else ProbeWeights.load(settings.probe)
    head = AnswerHead.of(model, loaded.tokens.zero, loaded.tokens.one, probe)
    budget = kv_budget(settings, device)
    try:
        pool = KVPool(KVShape.of(config), budget_bytes=budget, dtype=model.dtype, device=device)
        ground = Ground(model, pool, head, longest=loaded.tokens.longest, most_tokens=settings.batch_tokens)
        parts = _parts(settings, make_runner(names, ground, weights), pool)
    except ValueError as error:
        raise DoesNotFitError(f"the engine's memory cannot be divided as its settings say: {error}") from error
    band = BANDS.get(model.dtype)
    logger.info("%s runner, %s of KV for %d tokens", parts.runner.name, gib(pool.pages * pool.page_bytes), pool.pages * PAGE)
    return LocalEngine(
        parts,
        _info(settings, loaded, parts.runner),
        settings,
        vocabulary=config.vocab_size,
        vigils=Vigils(tolerance=band.probability if band else _PROBABILITY, stale_s=_SLOWEST_PASS_S.get(device.type, 120.0)),
    )


def kv_budget(settings: EngineSettings, device: torch.device) -> int:
    """Bytes for pages: what was asked for; else what a GPU has left but for a reserve, or a quarter of a host's free memory.

    Raises DoesNotFitError when that is more than there is.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
        reserve = min(_GPU_RESERVE, torch.cuda.get_device_properties(device).total_memory // 10)
    else:
        reserve = 0
    there = available(device)
    left = None if there is None else max(0, there - reserve)
    if settings.kv_bytes is not None:
        if left is not None and settings.kv_bytes > left:
            raise DoesNotFitError(f"kv_bytes asks for {gib(settings.kv_bytes)} and {gib(left)} is left beside the model; lower it")
        return settings.kv_bytes
    if left is None:
        return GIB
    return left if device.type == "cuda" else min(_MOST_CPU, left // 4)


def _built(settings: EngineSettings) -> LocalEngine:
    loaded = load_checkpoint(settings.model, device=settings.device, quantise=settings.quantise)
    return build_engine(settings, loaded)


def _parts(settings: EngineSettings, runner: Runner, pool: KVPool) -> Parts:
    host = available("cpu")
    host_bytes = settings.host_bytes
    if host is not None and host_bytes > host // 2:
        logger.warning("host_bytes asks for %s; half of the free memory is taken, %s", gib(host_bytes), gib(host // 2))
        host_bytes = host // 2
    prefixes = PrefixStore(pool, host_bytes=host_bytes, floors=settings.tenant_floor_bytes)
    whole = pool.pages * pool.page_bytes
    streams = StreamStore(prefixes, budget_bytes=whole // 4 if settings.stream_bytes is None else settings.stream_bytes)
    return Parts(runner, prefixes, streams)


def _info(settings: EngineSettings, loaded: LoadedModel, runner: Runner) -> EngineInfo:
    manifest = loaded.manifest
    return EngineInfo(
        runner=runner.name,
        model=manifest.digest,
        adapter=manifest.adapter.digest if manifest.adapter else "",
        dtype=str(loaded.model.dtype).removeprefix("torch."),
        longest=loaded.tokens.longest,
        quantisation=settings.quantise,
        prompt=loaded.tokens.digest,
    )
