"""The network of the embedded classifier.

A late-interaction cross-encoder, our own design. A text runs once through a six-layer BERT trunk (initialised from all-MiniLM-L6-v2).
A policy is cut into statements (what it covers, each Includes, each Excludes, each defined term); each statement runs once, ever, through
the same trunk and is kept as one vector and the words it is made of. Then, for each policy, its statements, each with what of its words
the text takes up (`token_match`), pass through `reader` layers in which they attend to one another and to the text's token states. The
text never attends to a policy, so one pass over the text serves any number of policies, and a policy costs a handful of vectors and one
comparison of words instead of a pass of its own.

Shapes: B texts of T tokens, P policies of up to K statements, D hidden units.
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812  (the field's own name for it)
from torch import Tensor, nn

from guardrail.engine.embedded.token_match import Encoded, TokenMatch

LABEL, INCLUDE, EXCLUDE, TERM = range(4)


@dataclass(frozen=True, slots=True)
class ReaderConfig:
    """Sizes of the network; written into the weights file and read back from it."""

    vocab_size: int = 30522
    hidden: int = 384
    heads: int = 12
    inner: int = 1536
    trunk_layers: int = 6
    reader_layers: int = 3
    max_positions: int = 512
    dropout: float = 0.1
    match_heads: int = 4  # half of them on early states, half on late ones
    match_early: int = 2  # trunk layers behind the early states
    match_late: int = 5  # and behind the late ones


@dataclass(frozen=True, slots=True)
class Statements:
    """Policies as the reader sees them.

    All their statements, `layout` [P, K] the place of each among these (the label's first), `kinds` [P, K], which are `present` [P, K].
    """

    encoded: Encoded
    layout: Tensor
    kinds: Tensor
    present: Tensor


class Layer(nn.Module):
    """One post-norm transformer layer (BERT's): attention from `x` to `x` and whatever stands beside it, then the feed-forward."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.hidden, config.hidden)
        self.key = nn.Linear(config.hidden, config.hidden)
        self.value = nn.Linear(config.hidden, config.hidden)
        self.out = nn.Linear(config.hidden, config.hidden)
        self.norm_attention = nn.LayerNorm(config.hidden, eps=1e-12)
        self.inner = nn.Linear(config.hidden, config.inner)
        self.outer = nn.Linear(config.inner, config.hidden)
        self.norm_feed_forward = nn.LayerNorm(config.hidden, eps=1e-12)
        self.dropout = config.dropout

    def split(self, x: Tensor) -> Tensor:
        """[N, T, D] -> [N, heads, T, D / heads]."""
        count, length, hidden = x.shape
        return x.view(count, length, self.heads, hidden // self.heads).transpose(1, 2)

    def forward(self, x: Tensor, mask: Tensor | None, beside: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """`x` [N, T, D]; `mask` [N, 1, 1, T'] True where a key may be seen (None: everywhere).

        `beside`: further keys and values [N, heads, T'', D / heads].
        """
        query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        if beside is not None:
            key, value = torch.cat([key, beside[0]], dim=2), torch.cat([value, beside[1]], dim=2)
        seen = _attend(query, key, value, mask) if self.training else F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = self.norm_attention(x + self.out(seen.transpose(1, 2).flatten(2)))
        outer = self.outer(F.gelu(self.inner(x)))
        result: Tensor = self.norm_feed_forward(x + F.dropout(outer, self.dropout, self.training))
        return result


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Plain attention for training: on a CPU the backward pass of torch's fused one takes twice as long as the whole rest of the step."""
    weights = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        weights = weights.masked_fill(~mask, -1e4)
    seen: Tensor = weights.softmax(-1).to(value.dtype) @ value
    return seen


class PolicyReader(nn.Module):
    """Trunk, reader and head; see the module's docstring."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.config = config
        self.frozen_layers = 0  # lowest trunk layers that training leaves as they are
        self.words = nn.Embedding(config.vocab_size, config.hidden)
        self.positions = nn.Embedding(config.max_positions, config.hidden)
        self.norm = nn.LayerNorm(config.hidden, eps=1e-12)
        self.trunk = nn.ModuleList(Layer(config) for _ in range(config.trunk_layers))
        self.statement = nn.Linear(config.hidden, config.hidden)
        self.kind = nn.Embedding(4, config.hidden)
        self.norm_statement = nn.LayerNorm(config.hidden, eps=1e-12)
        deepest = config.trunk_layers - 1  # the last states that the reader looks at: a deeper layer would run for the match alone
        depths = min(config.match_early, deepest), min(config.match_late, deepest)
        self.match = TokenMatch(config.vocab_size, config.hidden, heads=config.match_heads, depths=depths)
        self.reader = nn.ModuleList(Layer(config) for _ in range(config.reader_layers))
        self.head = nn.Linear(config.hidden, 1)

    def encode(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """Token ids [B, T] and their mask -> the states before each trunk layer and after the last: trunk_layers + 1 tensors [B, T, D]."""
        seen = mask[:, None, None, :]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_layers):
            states = [self.norm(self.words(ids) + self.positions.weight[: ids.shape[1]])]
        for depth, layer in enumerate(self.trunk):
            with torch.set_grad_enabled(torch.is_grad_enabled() and depth >= self.frozen_layers):
                states.append(layer(states[-1], seen))
        return states

    def encode_statements(self, ids: Tensor, mask: Tensor) -> Encoded:
        """Statement token ids [S, T] -> the statements by themselves, independent of any text."""
        states = self.encode(ids, mask)
        last = states[-1]
        weight = mask.unsqueeze(-1).to(last.dtype)
        mean: Tensor = (last * weight).sum(1) / weight.sum(1).clamp_min(1.0)
        words = self.match.words(ids, mask)
        owner = torch.arange(len(ids), device=ids.device)[:, None].expand_as(mask)[words]
        return Encoded(mean, self.match.keys(states)[words], self.match.value(last)[words], owner)

    def enter(self, encoded: Encoded, kinds: Tensor) -> Tensor:
        """What S statements of these `kinds` [S] bring into the reader by themselves, [S, D]; what a text meets of them is added to it."""
        entering: Tensor = self.statement(encoded.vectors) + self.kind(kinds)
        return entering

    def read(self, pairs: Tensor, policies: Statements, ids: Tensor, text_mask: Tensor) -> Tensor:
        """Logits [N] that a text violates a policy, one for each of the `pairs` [N, 2] of (text, policy) rows.

        The texts' token `ids` and `text_mask`: [B, T].
        """
        text, policy = pairs[:, 0], pairs[:, 1]
        layout, texts = policies.layout[policy], self.encode(ids, text_mask)
        found = self.match(policies.encoded, self.match.keys(texts), self.match.words(ids, text_mask))[text[:, None], layout]
        base = self.statement(policies.encoded.vectors)[layout] + self.kind(policies.kinds)[policy]  # `enter` of each
        x = self.norm_statement(base + found.to(base.dtype))
        mask = torch.cat([policies.present[policy], text_mask[text]], dim=1)[:, None, None, :]
        depth = self.config.trunk_layers - self.config.reader_layers
        for step, each in enumerate(self.reader):
            layer, source = cast("Layer", each), texts[depth + step]
            x = layer(x, mask, (layer.split(layer.key(source))[text], layer.split(layer.value(source))[text]))
        logits: Tensor = self.head(x[:, 0]).squeeze(-1)
        return logits
