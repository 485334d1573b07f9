"""The fast CPU path: Gemma-2's maths written flat over fused weights, and the last layer only where an answer is read.

In fp32 products go through oneDNN (see `onednn`), the gate's activation inside them. Long passes are cut into pieces that stay in cache
between one product and the next.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from guardrail.engine import onednn
from guardrail.engine.cope.attention_cpu import PackedAttention, Scoring
from guardrail.engine.cope.head import AnswerHead
from guardrail.engine.cope.kv import KVPool
from guardrail.engine.cope.packed_weights import DenseProjection, PackedLayer, PackedWeights, Projection
from guardrail.engine.cope.rows import Plan
from guardrail.engine.cope.runner import Computed

_PIECE = 256  # most tokens that pass through the projections together


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """A layer as this runner multiplies it; `feed` is the whole feed-forward block, [T, N] -> [T, N]. The rest is as in `PackedLayer`."""

    qkv: Projection
    o: Projection
    feed: Projection
    before_attention: Tensor
    after_attention: Tensor
    before_mlp: Tensor
    after_mlp: Tensor
    scoring: Scoring


class FlatRunner:
    """Runs plans on the CPU over packed weights.

    `relay`: lay dense fp32 weights out anew for oneDNN. That is a second copy of them for as long as the first one lives, and it makes
    passes of few tokens about a third faster; without it long ones lose little. Raises ValueError for weights that are not on the CPU.
    """

    name = "cpu"

    def __init__(self, weights: PackedWeights, pool: KVPool, head: AnswerHead, *, most_tokens: int = 8192, relay: bool = True) -> None:
        if weights.embedding.device.type != "cpu":
            raise ValueError(f"the flat runner computes on the CPU; its weights are on {weights.embedding.device}")
        self.pool = pool
        self.most_tokens = most_tokens
        self._head = head
        self._weights = replace(weights, layers=())
        self._layers = tuple(_relaid(layer, relay=relay) for layer in weights.layers)
        self._turns = _Turns(weights.inv_freq)

    @torch.inference_mode()
    def forward(self, planned: Plan) -> Computed:
        """Run one pass; see `Runner`."""
        probed = self._head.probe is not None and any(row.probe for row in planned.rows)
        reads = torch.from_numpy(planned.reads)
        hidden = self._hidden(planned, None if probed else reads)
        places = reads if probed else torch.arange(len(reads))
        logits, log_total, probe = self._head(hidden, places, probed=probed)
        return Computed(
            logits=logits.numpy(),
            log_total=log_total.numpy(),
            probe=None if probe is None else probe.numpy(),
            bucket=planned.tokens,
        )

    def _hidden(self, planned: Plan, reads: Tensor | None) -> Tensor:
        """Final hidden states of every token, or of `reads` only."""
        weights = self._weights
        attention = PackedAttention(planned, self.pool)
        turn = self._turns.at(torch.from_numpy(planned.positions), weights.embedding.dtype)
        hidden = F.embedding(torch.from_numpy(planned.ids), weights.embedding) * weights.embed_scale
        for number in range(len(self._layers)):
            last = number == len(self._layers) - 1
            hidden = self._layer(number, hidden, attention, turn, reads if last else None)
        return self._norm(hidden, weights.final_norm)

    def _layer(self, number: int, hidden: Tensor, attention: PackedAttention, turn: "_Turn", reads: Tensor | None) -> Tensor:
        weights, layer = self._weights, self._layers[number]
        groups = weights.heads // weights.kv_heads
        query, key, value = self._heads(hidden, layer)
        key = turn.apply(key).permute(1, 0, 2).contiguous()
        value = value.permute(1, 0, 2).contiguous()
        attention.store(number, key, value)
        if reads is not None:
            query, hidden, turn = query.index_select(0, reads), hidden.index_select(0, reads), turn.take(reads)
            if len(reads) == 0:
                return hidden
        query = turn.apply(query).view(-1, weights.kv_heads, groups, weights.head_dim).transpose(0, 1).contiguous()
        attended = attention.attend(number, query, (key, value), layer.scoring, reading=reads is not None).to(hidden.dtype)
        return _in_pieces(lambda found, before: self._after(layer, found, before), attended, hidden)

    def _heads(self, hidden: Tensor, layer: _Layer) -> tuple[Tensor, Tensor, Tensor]:
        weights = self._weights
        found = _in_pieces(lambda piece: layer.qkv(self._norm(piece, layer.before_attention)), hidden)
        sizes = [weights.heads, weights.kv_heads, weights.kv_heads]
        query, key, value = torch.split(found.view(len(found), -1, weights.head_dim), sizes, dim=1)
        return query, key, value

    def _after(self, layer: _Layer, attended: Tensor, hidden: Tensor) -> Tensor:
        hidden = hidden + self._norm(layer.o(attended), layer.after_attention)
        return hidden + self._norm(layer.feed(self._norm(hidden, layer.before_mlp)), layer.after_mlp)

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        wide = hidden.float()
        inverse = torch.linalg.vecdot(wide, wide).div_(wide.shape[-1]).add_(self._weights.eps).rsqrt_()
        return torch.mul(wide, inverse.unsqueeze(-1)).mul_(weight).to(hidden.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    """Rotary positions of a pass' tokens: cosines and sines [T, 1, head_dim / 2]."""

    cos: Tensor
    sin: Tensor

    def apply(self, heads: Tensor) -> Tensor:
        """Turn [T, heads, head_dim]: the two halves of a head are the two coordinates."""
        first, second = heads.chunk(2, dim=-1)
        turned = torch.empty(heads.shape, dtype=heads.dtype)
        left, right = turned.chunk(2, dim=-1)
        torch.mul(first, self.cos, out=left).addcmul_(second, self.sin, value=-1)
        torch.mul(second, self.cos, out=right).addcmul_(first, self.sin)
        return turned

    def take(self, places: Tensor) -> "_Turn":
        """Those of some tokens."""
        return _Turn(self.cos.index_select(0, places), self.sin.index_select(0, places))


class _Turns:
    """Cosines and sines of every position so far seen, grown when a farther one comes."""

    def __init__(self, inv_freq: Tensor) -> None:
        self._inv_freq = inv_freq
        self._cos = self._sin = torch.empty(0, len(inv_freq))

    def at(self, positions: Tensor, dtype: torch.dtype) -> _Turn:
        """The turn of each position, in a dtype."""
        farthest = int(positions.max())
        if farthest >= len(self._cos):
            angles = torch.arange(2 * farthest + 1).float()[:, None] * self._inv_freq
            self._cos, self._sin = angles.cos(), angles.sin()
        cos, sin = (table.index_select(0, positions).to(dtype).unsqueeze(1) for table in (self._cos, self._sin))
        return _Turn(cos, sin)


def _in_pieces(compute: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """`compute` on equal pieces of tensors [T, ...], and its results behind one another."""
    count = -(-len(inputs[0]) // _PIECE)
    if count <= 1:
        return compute(*inputs)
    return torch.cat([compute(*pieces) for pieces in zip(*(torch.tensor_split(tensor, count) for tensor in inputs), strict=True)])


def _relaid(layer: PackedLayer, *, relay: bool) -> _Layer:
    return _Layer(
        qkv=_faster(layer.qkv, relay=relay),
        o=_faster(layer.o, relay=relay),
        feed=_feed(layer.gate_up, _faster(layer.down, relay=relay), relay=relay),
        before_attention=layer.before_attention,
        after_attention=layer.after_attention,
        before_mlp=layer.before_mlp,
        after_mlp=layer.after_mlp,
        scoring=layer.scoring,
    )


def _faster(projection: Projection, *, relay: bool) -> Projection:
    if not isinstance(projection, DenseProjection) or not onednn.usable(projection.weight):
        return projection
    weight = onednn.pack(projection.weight) if relay else projection.weight
    return lambda inputs: onednn.linear(inputs, weight)


def _feed(gate_up: Projection, down: Projection, *, relay: bool) -> Projection:
    if not isinstance(gate_up, DenseProjection) or not onednn.usable(gate_up.weight):
        return lambda inputs: down(_gated(gate_up(inputs)))
    gate, up = (onednn.pack(half) if relay else half for half in gate_up.weight.chunk(2))
    return lambda inputs: down(onednn.times_linear(inputs, up, onednn.gelu_linear(inputs, gate)))


def _gated(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.gelu(gate, approximate="tanh").mul_(up)
