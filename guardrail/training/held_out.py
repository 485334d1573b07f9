"""What an embedded model knows of units and wordings that its training never saw: the numbers that settings are chosen by."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from guardrail.engine.embedded.model import PolicyReader
from guardrail.engine.embedded.weights import load
from guardrail.ranking import curve
from guardrail.training.contradictory import Contradictions
from guardrail.training.contradictory_sampler import ContradictorySampler
from guardrail.training.embedded import split
from guardrail.training.rows import load_rows
from guardrail.training.sampler import Batch, Materials, Sampler, forward
from guardrail.training.variants import Wordings
from guardrail.types import Policy

BATCHES = 12  # of each kind: some four thousand pairs


def measure(weights: Path, data: Path, shipped: Sequence[Policy], *, batches: int = BATCHES, seed: int = 0) -> Mapping[str, float]:
    """Areas under the ROC curve over (text, policy) pairs: `plain` ones, `steered` ones, where the same texts meet policies that disagree,
    and their `mean`; `log_loss` is of the plain pairs, in nats.

    Raises FileNotFoundError without the sets, ModelFileError for weights that cannot be used.
    """
    loaded = load(weights)
    wordings = Wordings.load(held_out=True)
    _, kept = split([*load_rows(data), *wordings.topic_rows()])
    materials = Materials(wordings, shipped, loaded.tokens)
    plain = Sampler(kept, materials, seed=seed)
    steered = ContradictorySampler(kept, materials, Contradictions(share=1.0), seed=seed, steps=batches)
    first, loss = _judged(loaded.model, plain.batch, batches)
    second, _ = _judged(loaded.model, steered.batch, batches)
    return {"mean": (first + second) / 2, "plain": first, "steered": second, "log_loss": loss}


def _judged(model: PolicyReader, draw: Callable[[int], Batch], batches: int) -> tuple[float, float]:
    """Area under the curve and log loss over the pairs of some batches."""
    logits: list[NDArray[np.float64]] = []
    labels: list[NDArray[np.float64]] = []
    with torch.inference_mode():
        for step in range(batches):
            batch = draw(step)
            logits.append(forward(model, batch).double().numpy())
            labels.append(batch.labels.double().numpy())
    found, truth = np.concatenate(logits), np.concatenate(labels)
    signed = np.where(truth == 1, found, -found)
    return curve(found, truth).auc() or 0.0, float(np.logaddexp(0, -signed).mean())
