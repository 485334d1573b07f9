"""Which words of a statement a text takes up, found by comparing them one by one.

S statements with U words, B texts of T tokens, D hidden units, H heads of matching.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812  (the field's own name for it)
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Encoded:
    """S statements by themselves, independent of any text.

    A vector each [S, D], and of the U words compared their `keys` [U, H, 2 D / H], `values` [U, D] and the statement each belongs to [U].
    """

    vectors: Tensor
    keys: Tensor
    values: Tensor
    owner: Tensor

    @classmethod
    def joined(cls, parts: Sequence["Encoded"]) -> "Encoded":
        """Several as one, their statements one after another."""
        owners, first = [], 0
        for part in parts:
            owners.append(part.owner + first)
            first += len(part.vectors)
        return cls(
            torch.cat([part.vectors for part in parts]),
            torch.cat([part.keys for part in parts]),
            torch.cat([part.values for part in parts]),
            torch.cat(owners),
        )


class TokenMatch(nn.Module):
    """How well each word of a statement is met by some word of a text: the highest cosine over the text's tokens (as ColBERT's MaxSim).

    A statement's one vector says what it is about, but not which of its words a text takes up; a carve-out for one group differs from
    one for another in a single word. Half of the heads compare early states (the words), half late ones (their meaning). Our own
    design; MaxSim is from ColBERT (arXiv 2004.12832).
    """

    def __init__(self, vocab_size: int, hidden: int, *, heads: int, depths: tuple[int, int]) -> None:
        super().__init__()
        self.heads, self.depths = heads, depths
        self.low = nn.Linear(hidden, hidden, bias=False)
        self.high = nn.Linear(hidden, hidden, bias=False)
        self.value = nn.Linear(hidden, hidden, bias=False)
        self.gain = nn.Parameter(torch.full((self.heads, 1, 1), 5.0))
        self.shift = nn.Parameter(torch.full((self.heads, 1, 1), 0.6))
        self.out = nn.Linear(hidden, hidden)
        for part in (self.low, self.high, self.value):
            nn.init.eye_(part.weight)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)
        self.register_buffer("idle", torch.zeros(vocab_size, dtype=torch.bool))

    def words(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Which tokens [B, T] are compared: no padding, no marks, none of the words that stand in any sentence."""
        idle = cast("Tensor", self.idle)
        return mask & ~idle[ids]

    def keys(self, states: list[Tensor]) -> Tensor:
        """States of `encode`, [.., D] each -> unit vectors [.., H, 2 D / H], half of the heads from early states."""
        early, late = (states[depth] for depth in self.depths)
        parts = [part.view(*part.shape[:-1], self.heads // 2, -1) for part in (self.low(early), self.high(late))]
        unit: Tensor = F.normalize(torch.cat(parts, dim=-2).float(), dim=-1)
        return unit.to(early.dtype)

    def forward(self, statements: Encoded, text_keys: Tensor, text_words: Tensor) -> Tensor:
        """What of each statement is met by each text [B, S, D]; `text_keys` [B, T, H, 2 D / H], `text_words` [B, T]."""
        texts, length = text_words.shape
        tokens, count = len(statements.owner), len(statements.vectors)
        likeness = statements.keys.transpose(0, 1) @ text_keys.flatten(0, 1).permute(1, 2, 0)
        likeness = likeness.view(self.heads, tokens, texts, length).masked_fill(~text_words, -1.0)
        met = torch.sigmoid((likeness.max(-1).values.float() - self.shift) * self.gain)
        # Each statement's tokens side by side, [S, H, J]: the weighted sum of their values is then one product a statement and head.
        size = torch.bincount(statements.owner, minlength=count)
        place = torch.arange(tokens, device=met.device) - (size.cumsum(0) - size)[statements.owner]
        width = max(1, int(size.max()))
        weights = met.new_zeros(count, width, self.heads, texts).index_put((statements.owner, place), met.transpose(0, 1))
        values_a_head = statements.values.shape[1] // self.heads
        values = met.new_zeros(count, width, self.heads, values_a_head).index_put(
            (statements.owner, place), statements.values.view(tokens, self.heads, values_a_head).to(met.dtype)
        )
        summed = weights.permute(0, 2, 3, 1) @ values.transpose(1, 2)  # [S, H, B, D / H]
        mean = summed.permute(2, 0, 1, 3).flatten(2) / size.clamp_min(1)[None, :, None]
        result: Tensor = self.out(mean.to(self.out.weight.dtype))
        return result
