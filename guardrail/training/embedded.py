"""Training the embedded classifier from start to finish: rows, base weights, the loop, calibration, one file."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from guardrail.calibration import Platt
from guardrail.engine.embedded.minilm import installed_folder, load_base
from guardrail.engine.embedded.model import PolicyReader, ReaderConfig
from guardrail.engine.embedded.tokens import Tokens
from guardrail.engine.embedded.weights import save, start_from
from guardrail.errors import GuardrailError
from guardrail.training.contradictory_sampler import ContradictorySampler
from guardrail.training.rows import TrainingRow, load_rows
from guardrail.training.sampler import Materials, Sampler, forward
from guardrail.training.trainer import Progress, Recipe, train
from guardrail.training.triples import rows_digest
from guardrail.training.variants import Wordings
from guardrail.types import Policy
from guardrail.units import held_out


@dataclass(frozen=True, slots=True)
class Plan:
    """Where things are: the labelled data, a folder for checkpoints, the file to write, and one to go on from (None: the base model)."""

    data: Path
    folder: Path
    output: Path
    recipe: Recipe = field(default_factory=Recipe)
    init: Path | None = None


def train_embedded(plan: Plan, shipped: Sequence[Policy], *, report: Callable[[Progress], None]) -> str:
    """Train, calibrate on held-out units and wordings, write `plan.output`, and return its sha256. Resumes from `plan.folder`."""
    recipe = plan.recipe
    if recipe.blend and plan.init is None:
        raise GuardrailError(f"blend={recipe.blend:g} is a share of the weights that training goes on from: give them (--init FILE)")
    torch.manual_seed(recipe.seed)
    model, tokenizer = load_base(installed_folder(), ReaderConfig())
    if plan.init is not None:
        recipe = replace(recipe, init=start_from(model, plan.init))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    tokens, wordings = Tokens.from_json(tokenizer), Wordings.load()
    learnt, kept = split([*load_rows(plan.data), *wordings.topic_rows()])
    recipe = replace(recipe, data=data_digest(learnt, wordings, shipped))
    sampler: Sampler = Sampler(learnt, Materials(wordings, shipped, tokens), seed=recipe.seed)
    notes = {"recipe": json.dumps(asdict(recipe)), "rows": str(len(learnt)), "data": recipe.data}
    if recipe.contradictions.share:
        contradictory = ContradictorySampler(
            learnt, Materials(wordings, shipped, tokens), recipe.contradictions, seed=recipe.seed, steps=recipe.steps
        )
        notes["contradictions"] = contradictory.describe(plan.data, plan.folder / "contradictions.json")
        sampler = contradictory
    train(model, sampler, recipe, plan.folder, report=report)
    blend(model, before, recipe.blend)
    judge = Sampler(kept, Materials(Wordings.load(held_out=True), shipped, tokens), seed=plan.recipe.seed + 1)
    logits, labels, weights = [], [], []
    with torch.inference_mode():
        for step in range(60):
            batch = judge.batch(step)
            logits.append(forward(model, batch))
            labels.append(batch.labels)
            weights.append(batch.weights)
    calibration = fit(torch.cat(logits), torch.cat(labels), torch.cat(weights))
    plan.output.parent.mkdir(parents=True, exist_ok=True)
    return save(plan.output, model, tokenizer, calibration, notes=notes)


def blend(model: PolicyReader, before: Sequence[Tensor], share: float) -> None:
    """Move each parameter back towards what it was `before`, by `share` of the way.

    What lies between weights and those they were trained on to keeps what either can do (Wortsman et al., arXiv 2109.01903).
    """
    if share:
        with torch.no_grad():
            for parameter, old in zip(model.parameters(), before, strict=True):
                parameter.lerp_(old, share)


def split(rows: Sequence[TrainingRow]) -> tuple[list[TrainingRow], list[TrainingRow]]:
    """Learnt and kept rows, by unit, so that templates and contrast pairs never stand on both sides. The same for every seed."""
    learnt: list[TrainingRow] = []
    kept: list[TrainingRow] = []
    for row in rows:
        (kept if held_out(row.unit) else learnt).append(row)
    return learnt, kept


def data_digest(rows: Sequence[TrainingRow], wordings: Wordings, shipped: Sequence[Policy]) -> str:
    """sha256 over all that the examples follow from: the rows, what is known of them, the wordings, and the shipped policies."""
    told = [rows_digest(rows), wordings.digest, *sorted(policy.digest for policy in shipped)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def fit(logits: Tensor, labels: Tensor, weights: Tensor, *, steps: int = 200) -> Platt:
    """Platt scaling by weighted maximum likelihood (Platt 1999); slope and offset of the log-odds."""
    scale = torch.tensor([1.0, 0.0], requires_grad=True)
    optimizer = torch.optim.LBFGS([scale], max_iter=steps)
    plain = logits.detach().clone()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(scale[0] * plain + scale[1], labels, weights)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    slope, offset = scale.detach().tolist()
    return Platt(slope, offset)
