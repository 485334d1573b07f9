"""The learner behind a multilabel adapter: LoRA on a causal language model and a linear head over each text's last token."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from guardrail.engine.adapter.encoding import TextIds
from guardrail.engine.adapter.model import Batch, batch_of, decoder_of, logits
from guardrail.training.adapter_batches import Shape, passes, steps_of_epoch
from guardrail.training.adapter_noise import noisy
from guardrail.training.adapter_rows import AdapterData, AdapterRow
from guardrail.training.lora import Lora, learning
from guardrail.training.steps import Pace

QUICK = 256  # held-out texts of a validation on the way
FAR = 20.0  # the most that balancing weighs one label against the other


@dataclass(frozen=True, slots=True)
class AdapterRecipe:
    """All that decides the result besides data and base.

    `balance`: positives weigh (negatives / positives) to this power, 0 not at all, 1 as much as negatives together; `weights` of whole
    categories on top of it (1 where missing). `noise`: share of the texts that get noise, whatever their labels. Texts of more than
    `longest` tokens are left out: what is true of a whole need not be true of its beginning.
    """

    epochs: int = 2
    lora: Lora = field(default_factory=lambda: Lora(rank=16, alpha=32, dropout=0.05))
    pace: Pace = field(default_factory=lambda: Pace(rate=2e-4))
    shape: Shape = field(default_factory=Shape)
    balance: float = 0.5
    weights: Mapping[str, float] = field(default_factory=dict)
    noise: float = 0.3
    longest: int = 1024


@dataclass(frozen=True, slots=True, eq=False)
class MultilabelPass:
    """Texts of one pass. `labels` and `weights` [rows, categories] fp32; the weight of an unknown label is 0."""

    batch: Batch
    labels: Tensor
    weights: Tensor
    weight: float
    tokens: int


class MultilabelLearner:
    """See `Learner`. `model` is peft's; the head is made here: zero, its bias the log-odds of each category in the data."""

    def __init__(self, model: Any, tokens: TextIds, data: AdapterData, recipe: AdapterRecipe) -> None:
        self._model, self._tokens, self._recipe = model, tokens, recipe
        base = model.get_base_model()
        self._decoder = decoder_of(base)
        self.categories = data.categories
        self.rows, self.held_out, self.reported = (self._short(rows) for rows in (data.learnt, data.calibrating, data.reported))
        self.left_out = len(data.learnt) + len(data.calibrating) + len(data.reported) - sum(map(len, self.texts))
        self._positive = {name: _balance(data, name, recipe.balance) for name in self.categories}
        device = next(iter(base.parameters())).device
        self.head = _head(base.config.get_text_config().hidden_size, [_odds(data, name) for name in self.categories]).to(device)
        self._lengths = [len(tokens.ids(row.text)) for row in self.rows]
        self._order: dict[int, list[list[int]]] = {}

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """LoRA pairs by peft's names, `head.weight` and `head.bias`."""
        return {**learning(self._model), **{f"head.{name}": each for name, each in self.head.named_parameters()}}

    @property
    def texts(self) -> tuple[Sequence[AdapterRow], ...]:
        """What is trained on, calibrates and is reported on."""
        return self.rows, self.held_out, self.reported

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self._recipe.epochs * self._steps_an_epoch

    @property
    def _steps_an_epoch(self) -> int:
        return math.ceil(len(self.rows) / self._recipe.shape.batch)

    def passes(self, step: int) -> Sequence[MultilabelPass]:
        """See `Learner`."""
        epoch, at = divmod(step, self._steps_an_epoch)
        seed = f"{self._recipe.pace.seed}:{epoch}"
        if epoch not in self._order:
            self._order = {epoch: steps_of_epoch(self._lengths, self._recipe.shape, seed)}
        return self._passes([self.rows[place] for place in self._order[epoch][at]], seed)

    def loss(self, each: MultilabelPass) -> Tensor:
        """See `Learner`: binary cross-entropy, summed over the known labels by weight."""
        self._model.train()
        found = logits(self._decoder, self.head, each.batch)
        return (F.binary_cross_entropy_with_logits(found, each.labels, reduction="none") * each.weights).sum()

    @torch.inference_mode()
    def validate(self, *, whole: bool) -> Mapping[str, float]:
        """See `Learner`."""
        self._model.eval()
        rows = self.held_out if whole else self.held_out[:QUICK]
        parts = self._passes(rows, "")
        weight = sum(each.weight for each in parts)
        total = 0.0
        for each in parts:
            found = logits(self._decoder, self.head, each.batch)
            total += float((F.binary_cross_entropy_with_logits(found, each.labels, reduction="none") * each.weights).sum())
        return {"loss": round(total / weight, 6)} if weight else {}

    @torch.inference_mode()
    def predict(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Plain probabilities [texts, categories]."""
        self._model.eval()
        ids = [list(self._tokens.ids(text)) for text in texts]
        found = np.empty((len(texts), len(self.categories)))
        for group in passes([len(row) for row in ids], self._recipe.shape):
            batch = batch_of([ids[place] for place in group], self._tokens.pad, self.head.weight.device)
            found[group] = torch.sigmoid(logits(self._decoder, self.head, batch)).cpu().numpy()
        return found

    def _short(self, rows: Sequence[AdapterRow]) -> tuple[AdapterRow, ...]:
        return tuple(row for row in rows if len(self._tokens.ids(row.text)) <= self._recipe.longest)

    def _passes(self, rows: Sequence[AdapterRow], seed: str) -> list[MultilabelPass]:
        """`seed` of the noise; empty: none."""
        ids = [self._ids(row.text, seed) for row in rows]
        return [
            self._pass([rows[place] for place in group], [ids[place] for place in group])
            for group in passes([len(each) for each in ids], self._recipe.shape)
        ]

    def _ids(self, text: str, seed: str) -> list[int]:
        plain = list(self._tokens.ids(text))
        if not seed or not self._recipe.noise:
            return plain
        changed = list(self._tokens.ids(noisy(text, seed, self._recipe.noise)))
        return changed if len(changed) <= self._recipe.longest else plain

    def _pass(self, rows: Sequence[AdapterRow], ids: Sequence[Sequence[int]]) -> MultilabelPass:
        device = self.head.weight.device
        labels = torch.tensor([[row.labels.get(name, 0) for name in self.categories] for row in rows], dtype=torch.float32)
        weights = torch.tensor([[self._weight(name, row.labels.get(name)) for name in self.categories] for row in rows])
        batch = batch_of(ids, self._tokens.pad, device)
        return MultilabelPass(batch, labels.to(device), weights.to(device), float(weights.sum()), sum(map(len, ids)))

    def _weight(self, category: str, label: int | None) -> float:
        if label is None:
            return 0.0
        return self._recipe.weights.get(category, 1.0) * (self._positive[category] if label else 1.0)


def _balance(data: AdapterData, category: str, power: float) -> float:
    share = data.count(category, 0) / data.count(category, 1)
    return float(min(FAR, max(1 / FAR, share**power)))


def _odds(data: AdapterData, category: str) -> float:
    return math.log(data.count(category, 1) / data.count(category, 0))


def _head(width: int, odds: Sequence[float]) -> nn.Linear:
    head = nn.Linear(width, len(odds))
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor(odds))
    return head
