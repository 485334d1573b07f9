"""`guardrail train adapter` from start to finish: rows, LoRA and head, the loop, thresholds and calibrations, one folder."""

import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from guardrail import __version__
from guardrail.calibration import digest as calibration_digest
from guardrail.engine.adapter.encoding import TextIds
from guardrail.engine.cope import manifest as manifests
from guardrail.engine.cope.checkpoint import needed, read_model
from guardrail.engine.cope.memory import require
from guardrail.engine.cope.merge import read_tokenizer
from guardrail.engine.cope.shards import weights_of
from guardrail.engine.cope.source import Source, locate
from guardrail.errors import GuardrailError
from guardrail.training.adapter_model import AdapterRecipe, MultilabelLearner
from guardrail.training.adapter_noise import NOISES
from guardrail.training.adapter_output import Made, Operating, check_names, write_output, write_record
from guardrail.training.adapter_rows import AdapterData
from guardrail.training.adapter_thresholds import Choice, Known, Target, choose, measures
from guardrail.training.checkpoints import Keeper
from guardrail.training.lora import attach, recompute
from guardrail.training.steps import Progress, Upkeep, run

CHECKPOINTS = "checkpoints"
SURFACES = 500  # reported texts whose surface is changed, to see what that does to the verdicts

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AdapterPlan:
    """What to train and where. `recompute` saves memory for time; `opencc_head` is `write_output`'s."""

    base: str
    data: AdapterData
    out: Path
    recipe: AdapterRecipe = field(default_factory=AdapterRecipe)
    target: Target = field(default_factory=Target)
    upkeep: Upkeep = field(default_factory=lambda: Upkeep(checkpoint_every=100))
    device: str = "auto"
    recompute: bool = False
    opencc_head: bool = False


def train_adapter(plan: AdapterPlan, *, report: Callable[[Progress], None]) -> Mapping[str, Any]:
    """Train, calibrate, measure and write `plan.out`; returns what `training.json` holds. Goes on from an interrupted run's checkpoint.

    Raises GuardrailError (data, names, another run's checkpoint), ModelFileError (the base), DoesNotFitError (memory).
    """
    check_names(plan.data.categories, opencc_head=plan.opencc_head)
    source = locate(plan.base)
    base_digest = manifests.origin(source, source.shards()).digest
    tokenizer = _tokenizer(source)
    model = attach(_base(plan, source), plan.recipe.lora, seed=plan.recipe.pace.seed)
    if plan.recompute:
        recompute(model)
    learner = MultilabelLearner(model, TextIds(tokenizer), plan.data, plan.recipe)
    if not learner.rows:
        raise GuardrailError(f"every text has more than {plan.recipe.longest} tokens; raise --longest")
    identity = {"recipe": asdict(plan.recipe), "data": plan.data.digest, "base": base_digest}
    history = run(learner, plan.recipe.pace, plan.upkeep, Keeper(plan.out / CHECKPOINTS, identity), report=report)
    choices = _choices(learner, plan)
    made = Made(model, learner.head, plan.data.categories, _name(plan.base), base_digest, tokenizer)
    calibrations = {name: each.calibration for name, each in choices.items() if each.calibration is not None}
    operating = Operating({name: each.threshold for name, each in choices.items()}, calibrations, {"data": plan.data.digest})
    digest = write_output(plan.out, made, operating, opencc_head=plan.opencc_head)
    record = {
        "tool": f"guardrail {__version__}",
        "weights": digest,
        **identity,
        "base_model": made.base,
        "target": "f1" if plan.target.fpr is None else f"fpr={plan.target.fpr:g}",
        "texts": {
            "trained_on": len(learner.rows),
            "too_long": learner.left_out,
            "calibrating": len(learner.held_out),
            "reported": len(learner.reported),
            "unlabelled": plan.data.unlabelled,
        },
        "steps": learner.steps,
        "loss": {"first": history.losses[0], "last": history.losses[-1]},
        "validations": history.validations,
        "seconds": round(history.seconds, 1),
        "tokens_per_s": round(history.tokens_per_s, 1),
        "categories": _measured(learner, plan, choices),
        "surface": _surface(learner, plan, operating.thresholds),
    }
    write_record(plan.out, record)
    return record


def _tokenizer(source: Source) -> Any:
    """The base's, padded on the right, with something to pad with: its readers need both."""
    tokenizer = read_tokenizer(source.folder)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _base(plan: AdapterPlan, source: Source) -> Any:
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if plan.device == "auto" else plan.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    weights = [weight for path in source.shards() for weight in weights_of(path)]
    require(needed(weights, dtype), device, f"training on {source.name}", remedy="use a smaller base, or a GPU with more memory")
    return read_model(source.folder, dtype, device)


def _name(base: str) -> str:
    """How the output names its base: a folder by its whole path, since the output may move; a hub id as it is."""
    folder = Path(base).expanduser()
    return str(folder.resolve()) if folder.is_dir() else base


def _choices(learner: MultilabelLearner, plan: AdapterPlan) -> dict[str, Choice]:
    rows = learner.held_out
    scores = learner.predict([row.text for row in rows])
    return {name: choose(Known.of(rows, scores[:, at], name), plan.target) for at, name in enumerate(plan.data.categories)}


def _measured(learner: MultilabelLearner, plan: AdapterPlan, choices: Mapping[str, Choice]) -> dict[str, Any]:
    """Each category on texts that neither trained nor calibrated it."""
    rows = learner.reported
    scores = learner.predict([row.text for row in rows])
    return {
        name: {
            "trained_on": {"positives": plan.data.count(name, 1), "negatives": plan.data.count(name, 0)},
            "threshold": choice.threshold,
            "calibration": choice.calibration and {"method": choice.calibration.method, "digest": calibration_digest(choice.calibration)},
            "why": choice.why,
            **measures(Known.of(rows, scores[:, at], name), choice.threshold),
        }
        for at, (name, choice) in enumerate(choices.items())
    }


def _surface(learner: MultilabelLearner, plan: AdapterPlan, thresholds: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """What each kind of noise does to verdicts: the share of texts it makes flagged, or unflagged, in any category."""
    rows = learner.reported[:SURFACES]
    if not rows:
        return {}
    lines = np.array([thresholds[name] for name in plan.data.categories])
    before = learner.predict([row.text for row in rows])
    flagged = (before >= lines).any(1)
    found: dict[str, dict[str, float]] = {}
    for kind, change in NOISES.items():
        after = learner.predict([change(row.text, random.Random(f"{kind}:{row.text}")) for row in rows])  # noqa: S311  (reproducible, no secret)
        now = (after >= lines).any(1)
        found[kind] = {
            "newly_flagged": round(float((now & ~flagged).mean()), 4),
            "newly_passed": round(float((flagged & ~now).mean()), 4),
            "mean_change": round(float(np.abs(after - before).mean()), 4),
        }
    return found
