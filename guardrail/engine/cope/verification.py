"""Is a merged model what it says it is: its files, its prompts, its tokenizer, its weights, and what it answers."""

import gc
import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from peft import PeftModel

from guardrail.engine.cope import manifest as manifests
from guardrail.engine.cope.agreement import BANDS, Agreement, scores
from guardrail.engine.cope.checkpoint import needed, read_model
from guardrail.engine.cope.manifest import Manifest, Origin, Report
from guardrail.engine.cope.memory import available, require
from guardrail.engine.cope.merge import DTYPES, MergePlan, read_tokenizer, recomputed
from guardrail.engine.cope.shards import Weight, weights_of
from guardrail.engine.cope.source import Source, locate
from guardrail.engine.cope.tokens import PromptTokens
from guardrail.errors import ModelFileError
from guardrail.policy.prompt import render

# sha256 of the published templates, the words {policy} and {content} in their places. The other two were only ever seen in use.
TEMPLATES: Mapping[str, str] = MappingProxyType(
    {
        "A": "2d1fd5d196471e5d5bbf8f609bb254b0cd10bb1551be0b23226c7bd01d49006d",
        "B": "7968dddc0a8dd046eaf92fefa2b0c63df553b2ff9a4a6bf937d0cd8be74aae5d",
    }
)


@dataclass(frozen=True, slots=True)
class Checked:
    """One thing that was checked, whether it holds, and what was seen."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Subject:
    """What is verified. `base` and `adapter` say where they lie now, if not where the manifest names them; `device` runs the scores."""

    folder: Path
    base: str | None = None
    adapter: str | None = None
    device: str = "cpu"


def verify(subject: Subject, *, quick: bool = False, report: Report | None = None) -> Iterator[Checked]:
    """Check after check, as each is done; `quick` leaves out the two that need base and adapter. `report` hears of bytes digested.

    Raises ModelFileError for a folder without manifest, or where base and adapter cannot be had.
    """
    manifest = manifests.read(subject.folder)
    if manifest is None:
        raise ModelFileError(f"{subject.folder} has no {manifests.NAME}: it was not written by `guardrail model merge`")
    yield _attempt("files", lambda: _files(subject.folder, manifest, report))
    yield _template(manifest)
    yield _attempt("tokenizer", lambda: _tokenizer(subject.folder, manifest))
    if quick:
        return
    base = _source(subject.base, manifest.base)
    adapter = _source(subject.adapter, manifest.adapter)
    yield _attempt("weights", lambda: _weights(subject.folder, MergePlan(base, adapter, subject.folder, manifest.dtype)))
    yield _scores(subject, manifest, base, adapter)


def _attempt(name: str, check: Callable[[], str]) -> Checked:
    try:
        return Checked(name, True, check())
    except ModelFileError as error:
        return Checked(name, False, str(error))


def _files(folder: Path, manifest: Manifest, report: Report | None) -> str:
    manifests.check(folder, manifest, report)
    return f"{len(manifest.files)} files are as they were written, {manifest.digest}"


def _template(manifest: Manifest) -> Checked:
    found = hashlib.sha256(render("{policy}", "{content}", manifest.template).encode()).hexdigest()
    published = TEMPLATES.get(manifest.template)
    if published is None:
        return Checked("template", True, f"{manifest.template}, which has no published digest; here it is {found}")
    return Checked("template", found == published, f"{manifest.template}, sha256 {found}")


def _tokenizer(folder: Path, manifest: Manifest) -> str:
    tokens = PromptTokens(read_tokenizer(folder), manifest.template)
    count = tokens.assert_seams()
    cut = {"header": "cut in the CONTENT header", "whole": "encoded whole, for want of a safe cut"}[tokens.seam]
    return f"{count} prompts of two pieces have the ids of the whole; {cut}; answers are tokens {tokens.zero} and {tokens.one}"


def _source(given: str | None, origin: Origin | None) -> Source:
    if origin is None:
        raise ModelFileError("this model was not merged from a base and an adapter; nothing to compare it with (--quick leaves that out)")
    found = locate(given or (f"{origin.name}@{origin.revision}" if origin.revision and "@" not in origin.name else origin.name))
    weights = (found.adapter(),) if (found.folder / "adapter_config.json").is_file() else found.shards()
    if manifests.origin(found, weights).digest != origin.digest:
        raise ModelFileError(f"{found.name} is not what was merged: its digest is another than that of {origin.name} in the manifest")
    return found


def _weights(folder: Path, plan: MergePlan) -> str:
    """Each weight made anew and compared; another machine's sums may round a few values the other way."""
    stored = _stored(folder)
    made, exact = set(), 0
    for name, value in recomputed(plan):
        if name not in stored:
            raise ModelFileError(f"{name} is missing")
        same = stored[name].read()
        exact += torch.equal(same, value)
        if not _alike(same, value):
            raise ModelFileError(f"{name} is not what base and adapter give")
        made.add(name)
    if more := sorted(set(stored) - made):
        raise ModelFileError(f"{more[0]} is neither in the base nor made by the adapter")
    return f"{len(made)} weights are base + adapter, {exact} of them to the bit"


def _alike(stored: torch.Tensor, made: torch.Tensor) -> bool:
    if stored.shape != made.shape or stored.dtype != made.dtype:
        return False
    return torch.allclose(stored.float(), made.float(), rtol=max(torch.finfo(made.dtype).eps, 1e-5), atol=1e-6)


def _scores(subject: Subject, manifest: Manifest, base: Source, adapter: Source) -> Checked:
    """The merged model against base and adapter side by side, as peft runs them; one after the other in memory."""
    tokens = PromptTokens(read_tokenizer(subject.folder), manifest.template)
    band, dtype = BANDS[manifest.dtype], _computed_in(subject, manifest)
    model = read_model(base.folder, dtype, torch.device(subject.device))
    with _peft_asks_by_old_names():
        unmerged = PeftModel.from_pretrained(model, adapter.folder)
    apart = scores(unmerged.get_base_model(), tokens)
    with unmerged.disable_adapter():
        bare = scores(unmerged.get_base_model(), tokens)
    del model, unmerged
    gc.collect()
    together = scores(read_model(subject.folder, dtype, torch.device(subject.device)), tokens)
    found, effect = Agreement.between(apart, together), Agreement.between(apart, bare)
    return Checked(
        "scores",
        found.within(band),
        f"merged against unmerged in {str(dtype).removeprefix('torch.')}: {found}; allowed {band.largest:g} (mean {band.mean:g}); "
        f"the adapter itself moves them by up to {effect.largest:.2g} (mean {effect.mean:.2g})",
    )


def _computed_in(subject: Subject, manifest: Manifest) -> torch.dtype:
    """fp32 where that fits, so that only the merge is seen and not the noise of 16-bit sums; else the stored type, which must."""
    weights, device = list(_stored(subject.folder).values()), torch.device(subject.device)
    there, exact = available(device), torch.float32
    if there is None or 1.1 * needed(weights, exact) <= there:
        return exact
    stored = DTYPES[manifest.dtype]
    require(int(1.1 * needed(weights, stored)), device, "comparing scores", remedy="--quick leaves it out, another --device may have more")
    return stored


def _stored(folder: Path) -> dict[str, Weight]:
    return {weight.name: weight for path in Source(str(folder), folder).shards() for weight in weights_of(path)}


@contextmanager
def _peft_asks_by_old_names() -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield
