"""The training loop of the embedded classifier: seeded, resumable, with a progress bar."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812

from guardrail.engine.embedded.model import PolicyReader
from guardrail.training.checkpoints import Keeper
from guardrail.training.contradictory import Contradictions
from guardrail.training.sampler import Sampler, forward


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the result besides the rows; written beside the checkpoint."""

    steps: int = 3000
    seed: int = 1
    trunk_rate: float = 1e-4
    new_rate: float = 3e-4
    match_rate: float = 7.5e-4
    warm_up: int = 100
    frozen_layers: int = 2
    weight_decay: float = 0.01
    checkpoint_every: int = 100
    data: str = ""  # sha256 of the rows, the wordings and the shipped policies
    init: str = ""  # sha256 of the weights it goes on from; empty: the base model's
    blend: float = 0.0  # share of those in the result (a mean of weights, WiSE-FT, arXiv 2109.01903)
    contradictions: Contradictions = field(default_factory=Contradictions)

    def at(self, factor: float) -> "Recipe":
        """The recipe with all learning rates times `factor`."""
        return replace(self, trunk_rate=self.trunk_rate * factor, new_rate=self.new_rate * factor, match_rate=self.match_rate * factor)


@dataclass(frozen=True, slots=True)
class Progress:
    """One step's report: its number, the smoothed loss (nats a pair) and the seconds since the start."""

    step: int
    loss: float
    seconds: float


def train(model: PolicyReader, sampler: Sampler, recipe: Recipe, folder: Path, *, report: Callable[[Progress], None]) -> None:
    """Train in place. Continues from `folder`'s checkpoint; raises GuardrailError when it was made by another recipe."""
    # The word table and the lowest layers carry what the base model knows of words we never train on.
    model.frozen_layers = recipe.frozen_layers
    for part in (model.words, model.positions, model.norm, *list(model.trunk)[: recipe.frozen_layers]):
        part.requires_grad_(False)
    learning = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    base = [p for name, p in learning if name.startswith("trunk")]
    fresh = [p for name, p in learning if not name.startswith(("trunk", "match"))]
    match = [p for name, p in learning if name.startswith("match")]
    optimizer = torch.optim.AdamW(
        [
            {"params": base, "lr": recipe.trunk_rate},
            {"params": fresh, "lr": recipe.new_rate},
            {"params": match, "lr": recipe.match_rate},
        ],
        weight_decay=recipe.weight_decay,
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    keeper, learnt = Keeper(folder, {"recipe": asdict(recipe)}), dict(learning)
    (first, _), smooth = keeper.resume(learnt, optimizer), 0.7
    started = time.monotonic()
    model.train()
    for step in range(first, recipe.steps):
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        share = min(1.0, (step + 1) / recipe.warm_up) * max(0.02, 1.0 - step / recipe.steps)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * share
        batch = sampler.batch(step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = forward(model, batch, learn_statements=step % 2 == 0)
        losses = F.binary_cross_entropy_with_logits(logits.float(), batch.labels * 0.96 + 0.02, reduction="none")
        loss = (losses * batch.weights).sum() / batch.weights.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([*base, *fresh, *match], 1.0)
        optimizer.step()
        smooth = 0.98 * smooth + 0.02 * float(loss.detach())
        report(Progress(step + 1, smooth, time.monotonic() - started))
        if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps:
            keeper.save(step + 1, learnt, optimizer, {})
    model.eval()
