"""Which way passes are computed: the fastest that serves a model on its device, or the one that was asked for."""

import importlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch

from guardrail.engine.cope.flat import FlatRunner
from guardrail.engine.cope.head import AnswerHead
from guardrail.engine.cope.kv import KVPool
from guardrail.engine.cope.memory import GIB, available
from guardrail.engine.cope.packed_weights import PackedWeights
from guardrail.engine.cope.reference import ReferenceRunner
from guardrail.engine.cope.runner import Runner
from guardrail.errors import ClassifierError, GuardrailError

Kind = Literal["auto", "reference", "cpu", "cuda", "flex"]

GPU_RUNNERS: Mapping[str, str] = MappingProxyType(
    {"cuda": "guardrail.engine.cope.gpu_runners:cuda", "flex": "guardrail.engine.cope.gpu_runners:flex"}
)

logger = logging.getLogger("guardrail.engine")


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """What a runner stands on: a transformers model, the pool, the answer head; tokens of a prompt and of a pass at most."""

    model: Any
    pool: KVPool
    head: AnswerHead
    longest: int
    most_tokens: int


def candidates(kind: Kind, model: Any, device: torch.device) -> tuple[str, ...]:
    """The runners to try, the fastest first. Raises GuardrailError for one that this device cannot have."""
    if kind in GPU_RUNNERS and device.type != "cuda":
        raise GuardrailError(f"runner `{kind}` needs a GPU and the model is on the CPU; use `cpu`, or `auto`")
    if kind == "cpu" and device.type != "cpu":
        raise GuardrailError("runner `cpu` needs the model on the CPU and it is on a GPU; use `cuda`, or `auto`")
    if kind != "auto":
        return (kind,)
    if model.config.model_type != "gemma2":
        return ("reference",)
    return ("cuda", "flex", "reference") if device.type == "cuda" else ("cpu", "reference")


def pack(names: tuple[str, ...], model: Any, projections: Mapping[str, Any]) -> PackedWeights | None:
    """The fused weights that the fast runners among `names` read; None where there is none, or the model does not fit them.

    Raises GuardrailError when the only runner that was asked for needs them.
    """
    if names == ("reference",):
        return None
    try:
        return PackedWeights.from_gemma2(model, projections)
    except ValueError as error:
        if "reference" not in names:
            raise GuardrailError(f"runner `{names[0]}` does not serve this model: {error}") from error
        logger.warning("only the reference runner serves this model: %s", error)
        return None


def make_runner(names: tuple[str, ...], ground: Ground, weights: PackedWeights | None) -> Runner:
    """The first of them that serves. Raises GuardrailError (ClassifierError where it computes other scores than the reference) when
    none does.
    """
    for name in names:
        if name == "reference":
            return ReferenceRunner(ground.model, ground.pool, ground.head, most_tokens=ground.most_tokens)
        if weights is None:
            continue
        try:
            return _make(name, ground, weights)
        except (ValueError, ClassifierError) as error:
            if name == names[-1]:
                raise GuardrailError(f"runner `{name}` does not serve this model: {error}") from error
            logger.warning("runner `%s` does not serve this model, the next one is tried: %s", name, error)
    raise GuardrailError(f"none of the runners {', '.join(names)} serves this model")


def _make(name: str, ground: Ground, weights: PackedWeights) -> Runner:
    if name == "cpu":
        size = sum(parameter.nbytes for parameter in ground.model.parameters())
        there = available("cpu")
        relay = there is not None and there > size + ground.pool.page_bytes * ground.pool.pages + GIB
        return FlatRunner(weights, ground.pool, ground.head, most_tokens=ground.most_tokens, relay=relay)
    module, _, function = GPU_RUNNERS[name].partition(":")
    make: Callable[[Ground, PackedWeights], Runner] = getattr(importlib.import_module(module), function)
    return make(ground, weights)
