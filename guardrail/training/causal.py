"""From (policy, content, label) examples and a base model to a CoPE's adapter. `causal_result` merges, verifies and describes it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from guardrail.engine.cope import manifest as manifests
from guardrail.engine.cope.checkpoint import needed, read_model
from guardrail.engine.cope.manifest import Origin
from guardrail.engine.cope.memory import require
from guardrail.engine.cope.merge import read_tokenizer
from guardrail.engine.cope.shards import weights_of
from guardrail.engine.cope.source import Source, locate, read_json
from guardrail.engine.cope.tokens import PromptTokens
from guardrail.errors import DoesNotFitError, GuardrailError, ModelFileError
from guardrail.training.causal_data import Example, Examples, read, split, without
from guardrail.training.causal_learner import CausalLearner, Kept, Recipe
from guardrail.training.causal_model import Answers, adapted, assert_apart
from guardrail.training.causal_packs import packs, spell
from guardrail.training.checkpoints import Keeper
from guardrail.training.lora import save_adapter
from guardrail.training.steps import History, Progress, Upkeep, peak_memory, run

ADAPTER = "adapter"
CHECKPOINTS = "checkpoints"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Plan:
    """`base`: a folder, or owner/name[@revision] on the hub. `data`, `validation`: see `causal_data.read`. `output`: a folder, in which an
    interrupted run of the same plan goes on. `dtype` of the base while it is trained: float32, bfloat16, or auto (bfloat16 on a GPU).
    """

    base: str
    data: tuple[Path, ...]
    output: Path
    recipe: Recipe = field(default_factory=Recipe)
    validation: tuple[Path, ...] = ()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    upkeep: Upkeep = field(default_factory=Upkeep)


@dataclass(frozen=True, slots=True)
class Sorted:
    """The examples of a plan, and what became of them. `dropped`: not learnt, for standing in the validation data as well."""

    learnt: tuple[Example, ...]
    kept: tuple[Example, ...]
    digest: str
    manifest: str
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Trained:
    """A run that came to its end. `scores` are of the held-out examples that fit, `judged`, in order, by the model that was trained."""

    base: Origin
    source: Source
    data: Sorted
    too_long: int
    history: History
    judged: tuple[Example, ...]
    scores: tuple[float, ...]
    saved: float
    apart: float
    peak_memory: int
    device: str
    dtype: str
    tokenizer: str


def train_causal(plan: Plan, *, report: Callable[[Progress], None]) -> Trained:
    """Train, and write the adapter to `plan.output`/adapter in peft's format.

    Raises GuardrailError: examples that cannot be used, a base that cannot be read or does not fit, a checkpoint of another run.
    """
    data = sort(plan)
    source = _located(plan.base)
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if plan.device == "auto" else plan.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise GuardrailError("torch sees no GPU; train with --device cpu, or install a torch that fits the GPU's driver")
    dtype = _dtype(plan, device)
    tokens = prompt_tokens(source, plan.recipe)
    learnt, long = spell(data.learnt, tokens, positive=plan.recipe.positive)
    kept, longer = spell(data.kept, tokens)
    base = manifests.origin(source, source.shards())
    name = str(dtype).removeprefix("torch.")
    identity = {
        "recipe": plan.recipe.document(),
        "data": {"digest": data.digest, "learnt": len(learnt), "held_out": len(kept)},
        "base": base.digest,
        "prompts": tokens.digest,
        "dtype": name,
    }
    try:
        judge = adapted(_model(source, dtype, device), Answers(tokens.zero, tokens.one), plan.recipe.lora, seed=plan.recipe.pace.seed)
        apart = assert_apart(judge, packs(learnt, plan.recipe.layout))
        learner = CausalLearner(judge, learnt, Kept(kept, data.kept), plan.recipe)
        with judge.ready(training=True):
            history = run(learner, plan.recipe.pace, plan.upkeep, Keeper(plan.output / CHECKPOINTS, identity), report=report)
        found, _ = learner.judged(kept)
    except torch.OutOfMemoryError as error:
        raise DoesNotFitError(f"the GPU's memory is full ({str(error).splitlines()[0]}); lower --tokens, then --longest-pack") from error
    save_adapter(judge.model, plan.output / ADAPTER, source.name)
    return Trained(
        base=base,
        source=source,
        data=data,
        too_long=len(long) + len(longer),
        history=history,
        judged=tuple(data.kept[prompt.place] for prompt in kept),
        scores=tuple(found),
        saved=learner.saved,
        apart=apart,
        peak_memory=peak_memory(device),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        dtype=name,
        tokenizer=tokens.digest,
    )


def sort(plan: Plan) -> Sorted:
    """Read the plan's examples and hold some out: those of its validation files, or a part of its own."""
    found = read(plan.data)
    if not plan.validation:
        learnt, kept = split(found.rows, plan.recipe.held_out)
        return Sorted(tuple(learnt), tuple(kept), found.digest, found.manifest)
    other: Examples = read(plan.validation)
    learnt = without(found.rows, other.rows)
    dropped = len(found.rows) - len(learnt)
    return Sorted(tuple(learnt), other.rows, f"{found.digest}+{other.digest}", found.manifest, dropped)


def prompt_tokens(source: Source, recipe: Recipe) -> PromptTokens:
    """Prompts as the engine will spell them for the model that comes of it. Raises ModelFileError, KeyError on an unknown template."""
    config = read_json(source.folder / "config.json")
    longest = min(recipe.longest, int(config.get("max_position_embeddings") or recipe.longest))
    tokens = PromptTokens(read_tokenizer(source.folder), recipe.template, longest)
    tokens.assert_seams()
    return tokens


def _model(source: Source, dtype: torch.dtype, device: torch.device) -> Any:
    weights = [weight for path in source.shards() for weight in weights_of(path)]
    remedy = "bfloat16 takes half of float32; else take a smaller base, or a larger machine"
    require(needed(weights, dtype), device, f"{source.name} in {str(dtype).removeprefix('torch.')}", remedy=remedy)
    model = read_model(source.folder, dtype, device)
    if getattr(model.config, "attn_logit_softcapping", None) is None:
        model.set_attn_implementation("sdpa")  # it knows no soft-cap, which eager attention does
    return model


def _located(base: str) -> Source:
    found = locate(base)
    if (found.folder / "adapter_config.json").is_file():
        raise ModelFileError(f"{base} is an adapter; merge it into its base first (guardrail model merge) and train that")
    return Source(str(found.folder.resolve()), found.folder, None) if found.revision is None else found


def _dtype(plan: Plan, device: torch.device) -> torch.dtype:
    if plan.dtype != "auto":
        return DTYPES[plan.dtype]
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
