"""A base model and its adapter become one model on disk, a few GiB at a time: no model is built, no GPU is needed.

Each weight is merged in fp32 and rounded once. What is finished survives an interruption; the folder appears under its name when it is
complete and its tokenizer has been tried.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from guardrail import __version__
from guardrail.engine.cope import manifest as manifests
from guardrail.engine.cope.lora import Adapter, load_adapter
from guardrail.engine.cope.manifest import Manifest
from guardrail.engine.cope.memory import gib, require
from guardrail.engine.cope.shards import STATE, Progress, Weight, layout, merged_weights, write_shards
from guardrail.engine.cope.source import Source, read_json, reason
from guardrail.engine.cope.tokens import PromptTokens
from guardrail.errors import DoesNotFitError, ModelFileError

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model", "chat_template.jinja"),
    *("chat_template.json", "vocab.json", "merges.txt"),
)


@dataclass(frozen=True, slots=True)
class MergePlan:
    """`dtype`: bfloat16, float16, float32, or `keep` for the base's own. `template`: whose prompts the adapter was trained on."""

    base: Source
    adapter: Source
    output: Path
    dtype: str = "bfloat16"
    template: str = "A"
    shard_bytes: int = 2 << 30


@dataclass(frozen=True, slots=True)
class Step:
    """How far a merge is: bytes read, merged and written of all that will be."""

    done: int
    total: int


def merge(plan: MergePlan, report: Callable[[Step], None] | None = None) -> Manifest:
    """Write the merged model to `plan.output` and return its manifest; goes on where an interrupted merge of the same things stopped.

    Raises ModelFileError (sources that do not fit together, an output that exists) and DoesNotFitError (disk, memory).
    """
    if plan.output.exists():
        raise ModelFileError(f"{plan.output} exists already; give another --output, or move it away first")
    adapter = load_adapter(plan.adapter)
    groups = _groups(plan, adapter)
    folder = plan.output.with_name(f"{plan.output.name}.unfinished")
    size = _fits(plan, folder, groups, adapter)
    count = _counter(sum(path.stat().st_size for path in plan.base.shards()) + 2 * size, report)
    base = manifests.origin(plan.base, plan.base.shards(), count)
    changed = manifests.origin(plan.adapter, (plan.adapter.adapter(),))
    progress = Progress.resume(folder, json.dumps([base.digest, changed.digest, plan.dtype, plan.shard_bytes]))
    if not progress.files:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_shards(folder, groups, adapter, DTYPES.get(plan.dtype), (progress, count))
    _write_settings(plan, folder, groups)
    tokenizer = _tried_tokenizer(plan, folder)
    (folder / STATE).unlink(missing_ok=True)
    others = {path.name: manifests.record(path) for path in sorted(folder.iterdir()) if path.name not in progress.files}
    files = dict(sorted({**progress.files, **others}.items()))
    made = Manifest(base, changed, plan.template, _dtype(groups, plan), tokenizer, files, f"guardrail {__version__}", progress.deltas())
    manifests.write(folder, made)
    folder.replace(plan.output)
    return made


def recomputed(plan: MergePlan) -> Iterator[tuple[str, Tensor]]:
    """Name and value of each weight of the merged model, made anew from base and adapter."""
    adapter = load_adapter(plan.adapter)
    for group in _groups(plan, adapter):
        for weight, value, _ in merged_weights(group, adapter, DTYPES.get(plan.dtype)):
            yield weight.name, value


def read_tokenizer(folder: Path) -> Any:
    """A folder's tokenizer, as transformers reads it. Raises ModelFileError where it cannot."""
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(f"the tokenizer in {folder} cannot be read ({reason(error)})") from error


def _groups(plan: MergePlan, adapter: Adapter) -> list[list[Weight]]:
    groups = layout(plan.base.shards(), DTYPES.get(plan.dtype), plan.shard_bytes)
    if strangers := sorted(set(adapter.pairs) - {weight.name for group in groups for weight in group}):
        stated = f" (it was made for {adapter.base})" if adapter.base else ""
        raise ModelFileError(f"{plan.adapter.name} changes {strangers[0]}, which {plan.base.name} does not have{stated}; give its own base")
    return groups


def _fits(plan: MergePlan, folder: Path, groups: list[list[Weight]], adapter: Adapter) -> int:
    """Bytes of the merged weights. Raises DoesNotFitError where disk or memory will not do."""
    dtype = DTYPES.get(plan.dtype)
    sizes = [sum(weight.bytes(dtype) for weight in group) for group in groups]
    # A file's tensors twice, made and on their way to disk; and one weight as it is read, with some copies in fp32 where it is merged.
    weights = [weight for group in groups for weight in group]
    largest = max(weight.bytes(None) + (24 * weight.count if weight.name in adapter.pairs else 0) for weight in weights)
    require(2 * max(sizes) + largest, "cpu", "merging", remedy="close what else runs, or merge on a larger machine")
    parent = next(parent for parent in folder.absolute().parents if parent.is_dir())
    there = shutil.disk_usage(parent).free + sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if sum(sizes) > there:
        raise DoesNotFitError(
            f"the merged model needs {gib(sum(sizes))} of disk and {gib(there)} is free at {parent}; give another --output"
        )
    return sum(sizes)


def _dtype(groups: list[list[Weight]], plan: MergePlan) -> str:
    kept = {str(weight.dtype).removeprefix("torch.") for group in groups for weight in group}
    if plan.dtype in DTYPES:
        return plan.dtype
    if len(kept) > 1:
        raise ModelFileError(f"{plan.base.name} mixes {', '.join(sorted(kept))}, so its type cannot be kept; give one with --dtype")
    return kept.pop()


def _write_settings(plan: MergePlan, folder: Path, groups: list[list[Weight]]) -> None:
    """The base's configuration and tokenizer, as they are but for what the merge changes and what readers stumble over."""
    config = read_json(plan.base.folder / "config.json")
    config.pop("torch_dtype", None)
    config["dtype"] = _dtype(groups, plan)
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    for name in (*_TOKENIZER, "generation_config.json"):
        if (path := plan.base.folder / name).is_file():
            shutil.copyfile(path, folder / name)
    settings = folder / "tokenizer_config.json"
    if settings.is_file():
        document = read_json(settings)
        extra = document.get("extra_special_tokens")
        if isinstance(extra, list):  # transformers 5 writes a list, its fourth version and what builds on it read names only
            document["extra_special_tokens"] = {f"extra_special_token_{number}": token for number, token in enumerate(extra)}
            settings.write_text(json.dumps(document, indent=2, ensure_ascii=False), encoding="utf-8")


def _tried_tokenizer(plan: MergePlan, folder: Path) -> str:
    """The digest of the tokenizer that was copied, after it proved that it can serve the template."""
    tokens = PromptTokens(read_tokenizer(folder), plan.template)
    tokens.assert_seams()
    return tokens.tokenizer_digest


def _counter(total: int, report: Callable[[Step], None] | None) -> manifests.Report:
    done = [0]

    def add(count: int) -> None:
        done[0] = min(done[0] + count, total)
        if report is not None:
            report(Step(done[0], total))

    return add
