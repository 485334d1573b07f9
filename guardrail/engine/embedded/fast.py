"""The way a policy reader is run: what `PolicyReader.encode` and `read` compute, without what they compute for nothing.

- Texts are laid end to end, so no padding is multiplied; attention goes text by text, so no key is masked.
- The trunk's last layer is left out: the reader looks at the states before it.
- What the first reader layer makes of a policy's statements before it sees a text is kept with the policy.
- A text's keys and values are made once and looked at by all policies, not copied for each.
- In the last layer only the label's vector goes on.
- Weights are laid out for oneDNN once, with GELU and the sums inside the products.

Every logit agrees with `PolicyReader` to rounding. D hidden units, H heads.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812  (the field's own name for it)
from torch import Tensor, nn

from guardrail.engine.embedded.attention import Attention, attend, attend_shifted
from guardrail.engine.embedded.model import Layer, PolicyReader, Statements
from guardrail.engine.embedded.plan import Piece, Plan, Run, roomy
from guardrail.engine.onednn import Linear


@dataclass(frozen=True, slots=True)
class Resident:
    """A prepared policy of K statements: what enters the reader [K, D], and its queries, keys and values in the first layer [K, 3 D]."""

    rows: Tensor
    seen: Tensor

    def __len__(self) -> int:
        return len(self.rows)


class FastReader:
    """A `PolicyReader` laid out for the CPU. It keeps its own copy of the weights: later changes of the model do not reach it."""

    def __init__(self, model: PolicyReader) -> None:
        self._model = model
        self._heads = model.config.heads
        self._hidden = model.config.hidden
        self._skipped = model.config.trunk_layers - model.config.reader_layers
        self._trunk = [_Layer(cast("Layer", layer)) for layer in model.trunk[: model.config.trunk_layers - 1]]
        self._reader = [_Layer(cast("Layer", layer)) for layer in model.reader]

    def resident(self, vectors: Tensor, kinds: Tensor) -> Resident:
        """Statement vectors [K, D] and their kinds [K], the label's first -> what is kept of the policy."""
        rows = self._model.enter(Statements(vectors[None], kinds[None], torch.ones(1, len(kinds), dtype=torch.bool)))[0]
        first = self._reader[0]
        return Resident(rows, torch.cat([first.query(rows), first.key_value(rows)], dim=1))

    def read(self, texts: Sequence[Sequence[int]], policies: Sequence[Resident], pairs: Sequence[tuple[int, int]]) -> list[float]:
        """Logits of the `pairs` (text, policy), none of them twice, in order. Every text is asked about at least once."""
        plan = Plan(texts, [len(policy) for policy in policies], pairs, self._heads)
        with torch.inference_mode():
            found = self._logits(texts, policies, plan, attend)
            if any(map(math.isnan, found)):
                found = self._logits(texts, policies, plan, attend_shifted)
        return found

    def _logits(self, texts: Sequence[Sequence[int]], policies: Sequence[Resident], plan: Plan, look: Attention) -> list[float]:
        beside = self._texts(texts, plan, look)
        table = _Table.of(policies)
        found = [0.0] * plan.pairs
        for pieces in plan.passes:
            logits = self._policies(pieces, table, beside, look)
            for place, logit in zip((place for piece in pieces for place in piece.places), logits.tolist(), strict=False):
                found[place] = logit
        return found

    def _texts(self, texts: Sequence[Sequence[int]], plan: Plan, look: Attention) -> list[Tensor]:
        """Keys and values [tokens, 2 D] of the texts for each reader layer."""
        flat = [number for text in plan.order for number in texts[text]]
        places = [place for text in plan.order for place in range(len(texts[text]))]
        spare = [0] * (roomy(len(flat)) - len(flat))
        model = self._model
        x = F.embedding(torch.tensor(flat + spare), model.words.weight) + model.positions.weight[torch.tensor(places + spare)]
        x, found = model.norm(x), []
        for depth in range(len(self._trunk) + 1):
            if depth >= self._skipped:
                found.append(self._reader[depth - self._skipped].key_value(x))
            if depth < len(self._trunk):
                layer = self._trunk[depth]
                x = layer.finish(x, self._read_itself(plan.runs, layer.query(x), layer.key_value(x), look))
        return found

    def _read_itself(self, runs: Sequence[Run], query: Tensor, key_value: Tensor, look: Attention) -> Tensor:
        seen = torch.zeros_like(query)
        for run in runs:
            place = slice(run.first, run.first + run.texts * run.tokens)
            (asking,) = self._split(query[place], 1, run.texts, run.tokens)
            key, value = self._split(key_value[place], 2, run.texts, run.tokens)
            self._put(seen[place], look(asking, [(key, value, None)]))
        return seen

    def _policies(self, pieces: Sequence[Piece], table: "_Table", texts: list[Tensor], look: Attention) -> Tensor:
        """Logits of the pieces' pairs, in the order of their places; perhaps some more that mean nothing."""
        rows, labels = table.places(pieces)
        x, start = table.rows[rows], table.seen[rows]
        query, key_value = start[:, : self._hidden], start[:, self._hidden :]
        for step, (layer, beside) in enumerate(zip(self._reader, texts, strict=True)):
            last = step == len(self._reader) - 1
            if step:
                key_value = layer.key_value(x)
            if last:
                x = x[labels]
            if step:
                query = layer.query(x)
            elif last:
                query = query[labels]
            x = layer.finish(x, self._read_policies(pieces, query, (key_value, beside), look, only_labels=last))
        logits: Tensor = self._model.head(x).squeeze(-1).float()
        return logits

    def _read_policies(
        self, pieces: Sequence[Piece], query: Tensor, sources: tuple[Tensor, Tensor], look: Attention, *, only_labels: bool
    ) -> Tensor:
        statements, texts = sources
        seen = torch.zeros(len(query), self._hidden, dtype=query.dtype)
        asked = own = 0
        for piece in pieces:
            many = len(piece.policies)
            each = many if only_labels else many * piece.width
            mine = slice(asked, asked + piece.texts * each)
            (asking,) = self._split(query[mine], 1, piece.texts, each)
            key, value = self._split(texts[piece.first : piece.first + piece.texts * piece.tokens], 2, piece.texts, piece.tokens)
            among = self._split(statements[own : own + piece.texts * many * piece.width], 2, piece.texts, many, piece.width)
            self._put(seen[mine], look(asking, [(key, value, None), (*among, piece.absent)]))
            asked, own = mine.stop, own + piece.texts * many * piece.width
        return seen

    def _split(self, rows: Tensor, parts: int, *shape: int) -> Tensor:
        """Rows [n T, parts D] -> [parts, n, H, T, D / H], where `shape` is n, T or n, P, K."""
        apart = rows.view(*shape, parts, self._heads, self._hidden // self._heads)
        return apart.movedim((-3, 0, -2), (0, 1, 2)).contiguous()

    def _put(self, into: Tensor, seen: Tensor) -> None:
        """What [n, H, T, D / H] was seen into its rows [n T, D]."""
        texts, heads, length, size = seen.shape
        into.view(texts, length, heads, size).copy_(seen.transpose(1, 2))


class _Layer:
    """A layer of the network with its weights laid out."""

    def __init__(self, layer: Layer) -> None:
        self.query = Linear(layer.query.weight, layer.query.bias)
        self.key_value = Linear(torch.cat([layer.key.weight, layer.value.weight]), torch.cat([layer.key.bias, layer.value.bias]))
        self._out = Linear(layer.out.weight, layer.out.bias)
        self._inner = Linear(layer.inner.weight, layer.inner.bias)
        self._outer = Linear(layer.outer.weight, layer.outer.bias)
        self._norms: tuple[nn.LayerNorm, nn.LayerNorm] = (layer.norm_attention, layer.norm_feed_forward)

    def finish(self, x: Tensor, seen: Tensor) -> Tensor:
        """Everything after attention."""
        x = self._norms[0](self._out.plus(seen, x))
        found: Tensor = self._norms[1](self._outer.plus(self._inner.gelu(x), x))
        return found


@dataclass(frozen=True, slots=True)
class _Table:
    """The rows of several policies one under another, and a last one of zeros that stands where nothing is."""

    rows: Tensor
    seen: Tensor
    starts: tuple[int, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, policies: Sequence[Resident]) -> "_Table":
        sizes = tuple(len(policy) for policy in policies)
        rows = torch.cat([*(policy.rows for policy in policies), torch.zeros_like(policies[0].rows[:1])])
        seen = torch.cat([*(policy.seen for policy in policies), torch.zeros_like(policies[0].seen[:1])])
        return cls(rows, seen, tuple(sum(sizes[:place]) for place in range(len(sizes))), sizes)

    def places(self, pieces: Sequence[Piece]) -> tuple[Tensor, Tensor]:
        """Which rows the pieces take, in order, and which of those are label rows; both rounded up to a roomy number."""
        nothing = len(self.rows) - 1
        rows: list[int] = []
        labels: list[int] = []
        for piece in pieces:
            block: list[int] = []
            for policy in piece.policies:
                start, size = self.starts[policy], self.sizes[policy]
                block += [*range(start, start + size), *([nothing] * (piece.width - size))]
            labels += range(len(rows), len(rows) + len(block) * piece.texts, piece.width)
            rows += block * piece.texts
        rows += [nothing] * (roomy(len(rows)) - len(rows))
        labels += [0] * (roomy(len(labels)) - len(labels))
        return torch.tensor(rows), torch.tensor(labels)
