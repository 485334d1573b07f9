"""The way a policy reader is run: what `PolicyReader.encode` and `read` compute, without what they compute for nothing.

- Texts are laid end to end, so no padding is multiplied; attention goes text by text, so no key is masked.
- The trunk's last layer is left out: the reader looks at the states before it.
- Policies that are asked together lie side by side, what a text meets of their words is found for all of them at once.
- A text's keys and values are made once and looked at by all policies, not copied for each.
- In the last layer only the label's vector goes on.
- Weights are laid out for oneDNN once, with GELU and the sums inside the products.

Every logit agrees with `PolicyReader` to rounding. D hidden units, H heads.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812  (the field's own name for it)
from torch import Tensor, nn

from guardrail.engine.embedded.attention import Attention, attend, attend_shifted
from guardrail.engine.embedded.match import Match, Resident, Together, Words
from guardrail.engine.embedded.model import Layer, PolicyReader
from guardrail.engine.embedded.plan import Piece, Plan, Run, roomy
from guardrail.engine.embedded.token_match import Encoded
from guardrail.engine.onednn import Linear

TOGETHER_BYTES = 256 << 20  # of policies that are kept side by side, unless one set has more


class FastReader:
    """A `PolicyReader` laid out for the CPU. It keeps its own copy of the weights: later changes of the model do not reach it."""

    def __init__(self, model: PolicyReader) -> None:
        self._model = model
        self._heads = model.config.heads
        self._hidden = model.config.hidden
        self._skipped = model.config.trunk_layers - model.config.reader_layers
        self._match = Match(model.match)
        self._together: OrderedDict[tuple[int, ...], Together] = OrderedDict()
        self._trunk = [_Layer(cast("Layer", layer)) for layer in model.trunk[: model.config.trunk_layers - 1]]
        self._reader = [_Layer(cast("Layer", layer)) for layer in model.reader]

    def resident(self, encoded: Encoded, kinds: Tensor) -> Resident:
        """A policy's statements and their kinds [K], the label's first -> what is kept of it."""
        return Resident(self._model.enter(encoded, kinds), encoded)

    def read(self, texts: Sequence[Sequence[int]], policies: Sequence[Resident], pairs: Sequence[tuple[int, int]]) -> list[float]:
        """Logits of the `pairs` (text, policy), none of them twice, in order. Every text is asked about at least once."""
        plan = Plan(texts, [len(policy) for policy in policies], pairs, self._heads)
        with torch.inference_mode():
            found = self._logits(texts, policies, plan, attend)
            if any(map(math.isnan, found)):
                found = self._logits(texts, policies, plan, attend_shifted)
        return found

    def _logits(self, texts: Sequence[Sequence[int]], policies: Sequence[Resident], plan: Plan, look: Attention) -> list[float]:
        flat = [number for text in plan.order for number in texts[text]]
        places = [place for text in plan.order for place in range(len(texts[text]))]
        beside, words = self._texts(flat, places, plan, look)
        found = [0.0] * plan.pairs
        for pieces in plan.passes:
            blocks = [self._side_by_side([policies[policy] for policy in piece.policies], piece.width) for piece in pieces]
            logits = self._policies(pieces, blocks, (beside, words), look)
            for place, logit in zip((place for piece in pieces for place in piece.places), logits.tolist(), strict=False):
                found[place] = logit
        return found

    def _side_by_side(self, policies: Sequence[Resident], width: int) -> Together:
        """The policies as one; the same ones are asked again and again."""
        asked = (width, *map(id, policies))
        if asked not in self._together:
            self._together[asked] = Together.of(policies, width, self._match.heads)  # holds the policies, so that their ids stay theirs
            while len(self._together) > 1 and sum(each.size for each in self._together.values()) > TOGETHER_BYTES:
                self._together.popitem(last=False)
        self._together.move_to_end(asked)
        return self._together[asked]

    def _texts(self, flat: list[int], places: list[int], plan: Plan, look: Attention) -> tuple[list[Tensor], Words]:
        """Keys and values [tokens, 2 D] of the texts for each reader layer, and their words as they are matched."""
        spare = [0] * (roomy(len(flat)) - len(flat))
        model = self._model
        ids = torch.tensor(flat + spare)
        x = F.embedding(ids, model.words.weight) + model.positions.weight[torch.tensor(places + spare)]
        x, found, states = model.norm(x), [], []
        for depth in range(len(self._trunk) + 1):
            states.append(x)
            if depth >= self._skipped:
                found.append(self._reader[depth - self._skipped].key_value(x))
            if depth < len(self._trunk):
                layer = self._trunk[depth]
                x = layer.finish(x, self._read_itself(plan.runs, layer.query(x), layer.key_value(x), look))
        return found, self._match.words(ids, states)

    def _read_itself(self, runs: Sequence[Run], query: Tensor, key_value: Tensor, look: Attention) -> Tensor:
        seen = torch.zeros_like(query)
        for run in runs:
            place = slice(run.first, run.first + run.texts * run.tokens)
            (asking,) = self._split(query[place], 1, run.texts, run.tokens)
            key, value = self._split(key_value[place], 2, run.texts, run.tokens)
            self._put(seen[place], look(asking, [(key, value, None)]))
        return seen

    def _policies(self, pieces: Sequence[Piece], blocks: Sequence[Together], texts: tuple[list[Tensor], Words], look: Attention) -> Tensor:
        """Logits of the pieces' pairs, in the order of their places; perhaps some more that mean nothing."""
        keys_values, words = texts
        x, labels = self._entering(pieces, blocks, words)
        for step, (layer, beside) in enumerate(zip(self._reader, keys_values, strict=True)):
            last = step == len(self._reader) - 1
            key_value = layer.key_value(x)
            if last:
                x = x[labels]
            x = layer.finish(x, self._read_policies(pieces, layer.query(x), (key_value, beside), look, only_labels=last))
        logits: Tensor = self._model.head(x).squeeze(-1).float()
        return logits

    def _entering(self, pieces: Sequence[Piece], blocks: Sequence[Together], words: Words) -> tuple[Tensor, Tensor]:
        """The rows that enter the reader and which of them are label rows; both rounded up to a roomy number."""
        sizes = [piece.texts * len(block.rows) for piece, block in zip(pieces, blocks, strict=True)]
        spare = roomy(sum(sizes)) - sum(sizes)
        met = [self._match(block, words, piece) for piece, block in zip(pieces, blocks, strict=True)]
        rows = [block.rows.repeat(piece.texts, 1) for piece, block in zip(pieces, blocks, strict=True)]
        nothing = rows[0].new_zeros(spare, self._hidden)
        labels: list[int] = []
        first = 0
        for piece, size in zip(pieces, sizes, strict=True):
            labels += range(first, first + size, piece.width)
            first += size
        labels += [0] * (roomy(len(labels)) - len(labels))
        x = self._match.out.plus(torch.cat([*met, nothing]), torch.cat([*rows, nothing]))
        return self._model.norm_statement(x), torch.tensor(labels)

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
