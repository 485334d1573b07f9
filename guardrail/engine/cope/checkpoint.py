"""A model from disk (or the hub) into memory: what fits, what the manifest vouches for, safetensors only, soft-cap and all."""

import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from guardrail.engine.cope import manifest as manifests
from guardrail.engine.cope.agreement import BANDS, Agreement, Band, scores
from guardrail.engine.cope.manifest import Manifest, Origin
from guardrail.engine.cope.memory import available, gib, require
from guardrail.engine.cope.merge import DTYPES, read_tokenizer
from guardrail.engine.cope.packed_weights import Projection
from guardrail.engine.cope.quantise import Kind, quantise_layers
from guardrail.engine.cope.shards import Weight, weights_of
from guardrail.engine.cope.source import Source, locate, read_json, reason
from guardrail.engine.cope.tokens import PromptTokens
from guardrail.errors import ModelFileError

logger = logging.getLogger(__name__)

LONGEST = 8192  # CoPE-A's limit for policy and content together
_RESERVE = 512 << 20  # activations of a pass, and what transformers needs while it loads


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model ready to be run. `projections` are its quantised ones by fused name (empty where nothing is quantised), `agreement` what
    quantising did to the probe scores. A folder without a manifest gets one made up from what was found in it.
    """

    model: Any
    tokenizer: Any
    tokens: PromptTokens
    manifest: Manifest
    projections: Mapping[str, Projection]
    agreement: Agreement | None = None


def load_checkpoint(
    place: str | Path,
    *,
    device: str = "auto",
    dtype: torch.dtype | None = None,
    quantise: Literal["none", "int8", "fp8"] = "none",
    band: Band | None = None,
) -> LoadedModel:
    """Load a folder that `guardrail model merge` wrote, or a plain transformers checkpoint, or a model of the hub.

    `dtype`: bf16 on CUDA and fp32 on the CPU unless given. `band`: how far quantising may move the probe scores. Every file is held
    against its digest while the weights are read (some 15 to 60 seconds for 18 GB, beside the reading).
    Raises ModelFileError, or DoesNotFitError before anything is loaded.
    """
    source = locate(place)
    if (source.folder / "adapter_config.json").is_file():
        raise ModelFileError(f"{place} is an adapter, or holds one; merge it into its base first: guardrail model merge --adapter {place}")
    target = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    _supported(target, quantise)
    weights = [weight for path in source.shards() for weight in weights_of(path)]
    wanted = _dtype(weights, target, dtype, quantise)
    remedy = "a GPU with more memory is needed" if target.type == "cuda" else "int8 takes less, and so does bfloat16 on CPUs that have it"
    require(needed(weights, wanted), target, f"{place} in {_name(wanted)}", remedy=remedy)
    manifest = manifests.read(source.folder)
    with ThreadPoolExecutor(1, "digests") as beside:
        logger.info("%s: %s are read and held against their digests", source.name, gib(sum(weight.bytes(None) for weight in weights)))
        vouched = beside.submit(_vouched, source, manifest)
        try:
            tokenizer, model = read_tokenizer(source.folder), read_model(source.folder, wanted, target)
        except ModelFileError:
            vouched.result()  # an altered file is the better reason, if there is one
            raise
        found = vouched.result()
    tokens = _prompt_tokens(tokenizer, manifest, model.config)
    if manifest and manifest.tokenizer != tokens.tokenizer_digest:
        logger.warning("%s was merged with another version of the tokenizers package; its ids are the same on the probe texts", place)
    manifest = manifest or Manifest(found, None, tokens.template, _name(wanted), tokens.tokenizer_digest, {}, "")
    if quantise == "none":
        return LoadedModel(model, tokenizer, tokens, manifest, MappingProxyType({}))
    projections, agreement = _quantised(model, tokens, quantise, weights)
    agreement.require(band or BANDS[quantise], f"{quantise} quantisation of {place}")
    return LoadedModel(model, tokenizer, tokens, manifest, MappingProxyType(projections), agreement)


def load_tokens(place: str | Path) -> PromptTokens:
    """The prompt tokens of a model whose weights are somewhere else (an engine's own process). Raises ModelFileError."""
    source = locate(place)
    try:
        config = AutoConfig.from_pretrained(source.folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        raise ModelFileError(f"{source.folder / 'config.json'} cannot be read as a model's configuration ({error})") from error
    return _prompt_tokens(read_tokenizer(source.folder), manifests.read(source.folder), config)


def _prompt_tokens(tokenizer: Any, manifest: Manifest | None, config: Any) -> PromptTokens:
    longest = min(LONGEST, getattr(config, "max_position_embeddings", LONGEST))
    tokens = PromptTokens(tokenizer, manifest.template if manifest else "A", longest)
    tokens.assert_seams()
    return tokens


def needed(weights: list[Weight], dtype: torch.dtype) -> int:
    """Bytes that a model takes while it is loaded: itself, one weight twice, and a reserve."""
    return sum(weight.bytes(dtype) for weight in weights) + max(weight.bytes(dtype) for weight in weights) + _RESERVE


def _supported(device: torch.device, quantised: str) -> None:
    if quantised == "int8" and device.type != "cpu":
        raise ModelFileError("int8 weights are for the CPU; on a GPU use fp8, or none")
    if quantised == "fp8" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9)):
        raise ModelFileError("fp8 weights need a GPU of compute capability 8.9 or newer; on a CPU use int8, elsewhere none")


def _dtype(weights: list[Weight], device: torch.device, asked: torch.dtype | None, quantised: str) -> torch.dtype:
    if asked is not None:
        return asked
    if device.type == "cuda":
        return torch.bfloat16
    there = available(device)
    if quantised == "none" or there is None or needed(weights, torch.float32) <= there:
        return torch.float32
    return weights[0].dtype  # eight bits are what fits; until they are made the stored ones have to


def _vouched(source: Source, manifest: Manifest | None) -> Origin:
    if manifest is None:
        return manifests.origin(source, source.shards())
    manifests.check(source.folder, manifest)
    return Origin(source.name, manifest.digest, source.revision)


def read_model(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """A folder's causal language model, for inference. Raises ModelFileError where transformers cannot read it."""
    # Eager attention is the one that respects the soft-cap in every version; sdpa silently leaves it out in some.
    settings: dict[str, Any] = {"device_map": {"": device}} if device.type == "cuda" else {}
    architecture = read_json(folder / "config.json").get("model_type")
    read: Any = AutoModelForCausalLM.from_pretrained
    try:
        with _quiet():
            model, seen = read(
                folder,
                output_loading_info=True,
                dtype=dtype,
                attn_implementation="eager",
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                **settings,
            )
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        raise ModelFileError(f"{folder} cannot be loaded as a causal language model of type {architecture!r}: {reason(error)}") from error
    if absent := sorted(map(str, [*seen["missing_keys"], *seen["mismatched_keys"]])):  # transformers would make them up
        raise ModelFileError(f"{folder} lacks weights of its model, or has them in another shape: {', '.join(absent[:3])}")
    model.requires_grad_(False)
    return model.train(False)


def _quantised(model: Any, tokens: PromptTokens, kind: Kind, weights: list[Weight]) -> tuple[dict[str, Projection], Agreement]:
    before = scores(model, tokens)
    places = {weight.name: weight for weight in weights}

    def exact(name: str) -> Tensor:
        return places[name].read()

    finer = all(weight.dtype == torch.float32 for weight in weights) and model.dtype != torch.float32
    projections = quantise_layers(model, kind, exact=exact if finer else None)
    if kind == "int8":
        model.float()  # what is left is small, and CPUs are quickest in fp32
    agreement = Agreement.between(before, scores(model, tokens))
    logger.info("%s: %s", kind, agreement)
    return projections, agreement


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers draws progress bars over whatever is on the terminal; where they are wanted the command line draws its own."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _name(dtype: torch.dtype) -> str:
    return next((name for name, known in DTYPES.items() if known == dtype), str(dtype))
