"""What becomes of a trained adapter: merged into its base, verified against both, calibrated if asked, and all of it written down."""

import gc
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from guardrail import __version__
from guardrail.calibration import StoredCalibration, digest, write_beside
from guardrail.engine.cope import manifest as manifests
from guardrail.engine.cope.manifest import Manifest
from guardrail.engine.cope.merge import MergePlan, Step, merge
from guardrail.engine.cope.source import locate
from guardrail.engine.cope.verification import Checked, Subject, verify
from guardrail.errors import GuardrailError, ModelFileError
from guardrail.training.calibrate import HeldOut, calibrate
from guardrail.training.causal import ADAPTER, Plan, Trained

MODEL = "model"
NOTE = "training.json"
FORMAT = "guardrail-training/1"


@dataclass(frozen=True, slots=True)
class Ending:
    """What to make of an adapter. `dtype` of the merged weights (None: no merge); `calibrate`: fit one on the held-out scores."""

    dtype: Literal["bfloat16", "float16", "float32", "keep"] | None = "bfloat16"
    calibrate: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """What was made: `note` is training.json's content, `model` the folder that `kind: cope` serves (None without a merge)."""

    note: dict[str, Any]
    model: Path | None
    checks: tuple[Checked, ...] = ()


def finish(plan: Plan, trained: Trained, ending: Ending, *, report: Callable[[Step], None] | None = None) -> Made:
    """Merge, verify, calibrate, and write `training.json`.

    Raises ModelFileError where the merged model does not verify (training.json says how), and what merging raises.
    """
    note = _note(plan, trained)
    if ending.dtype is None:
        _write(plan.output, note)
        return Made(note, None)
    gc.collect()  # what was trained is let go, so that what is compared has room
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    folder = plan.output / MODEL
    manifest = _merged(plan, trained, ending.dtype, report)
    subject = Subject(folder, base=_named(trained), adapter=str(plan.output / ADAPTER), device=_device(trained))
    checks = tuple(verify(subject))
    note |= {
        "model": manifest.digest,
        "adapter": manifest.adapter.digest if manifest.adapter else "",
        "checks": [{"name": check.name, "passed": check.passed, "detail": check.detail} for check in checks],
    }
    if ending.calibrate:
        note["calibration"] = _calibrated(folder, manifest, trained)
    _write(plan.output, note)
    if failed := [check for check in checks if not check.passed]:
        raise ModelFileError(f"{folder} does not verify: {failed[0].name}: {failed[0].detail}")
    return Made(note, folder, checks)


def _merged(plan: Plan, trained: Trained, dtype: str, report: Callable[[Step], None] | None) -> Manifest:
    """Merge, unless this very adapter is merged already."""
    folder, adapter = plan.output / MODEL, locate(plan.output / ADAPTER)
    if folder.exists():
        there = manifests.read(folder)
        wanted = (trained.base.digest, manifests.origin(adapter, (adapter.adapter(),)).digest, plan.recipe.template)
        found = None if there is None else (there.base.digest, there.adapter.digest if there.adapter else "", there.template)
        if there is None or found != wanted or dtype not in (there.dtype, "keep"):
            raise ModelFileError(f"{folder} is another model; move it away, or give another --output")
        return there
    return merge(MergePlan(trained.source, adapter, folder, dtype, plan.recipe.template), report)


def _calibrated(folder: Path, manifest: Manifest, trained: Trained) -> dict[str, Any]:
    """What was fitted, or why nothing was; the model then stands without one."""
    rows = [HeldOut(score, example.label, example.unit) for score, example in zip(trained.scores, trained.judged, strict=True)]
    try:
        fit = calibrate(rows)
    except GuardrailError as error:
        return {"none": str(error)}
    notes = {"rows": str(fit.rows), "units": str(fit.units), "data": trained.data.digest}
    write_beside(folder, StoredCalibration(fit.calibration, manifest.digest, notes))
    return {
        "method": fit.calibration.method,
        "digest": digest(fit.calibration),
        "log_loss": {"before": fit.log_loss_before, "after": fit.log_loss},
        "brier": {"before": fit.brier_before, "after": fit.brier},
    }


def _note(plan: Plan, trained: Trained) -> dict[str, Any]:
    history, data = trained.history, trained.data
    return {
        "format": FORMAT,
        "tool": f"guardrail {__version__}",
        "base": {"name": trained.base.name, "digest": trained.base.digest, "revision": trained.base.revision},
        "data": {
            "files": [str(place) for place in plan.data],
            "validation": [str(place) for place in plan.validation],
            "digest": data.digest,
            "manifest": data.manifest,
            "learnt": len(data.learnt),
            "held_out": len(data.kept),
            "in_validation_too": data.dropped,
            "too_long": trained.too_long,
        },
        "recipe": plan.recipe.document(),
        "prompts": trained.tokenizer,
        "device": trained.device,
        "dtype": trained.dtype,
        "steps": len(history.losses),
        "losses": history.losses,
        "validations": history.validations,
        "metrics": history.validations[-1] if history.validations else {},
        "seconds": round(history.seconds, 3),
        "tokens": history.tokens,
        "tokens_per_s": round(history.tokens_per_s, 1),
        "prompt_tokens_per_s": round(history.tokens_per_s * trained.saved, 1),
        "peak_memory_bytes": trained.peak_memory,
        "packed_against_alone": trained.apart,
    }


def _write(folder: Path, note: dict[str, Any]) -> None:
    unfinished = folder / f"{NOTE}.part"
    unfinished.write_text(json.dumps(note, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    unfinished.replace(folder / NOTE)


def _named(trained: Trained) -> str:
    """The base, to be located again: a model of the hub at the very commit."""
    source = trained.source
    return source.name if source.revision is None or "@" in source.name else f"{source.name}@{source.revision}"


def _device(trained: Trained) -> str:
    return "cpu" if trained.device == "cpu" else "cuda"
