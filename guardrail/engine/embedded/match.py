"""What of a policy's words a text takes up, the fast way: `TokenMatch` without padding, for several policies at once.

D hidden units, H heads of matching.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  (the field's own name for it)
from torch import Tensor

from guardrail.engine.embedded.plan import Piece
from guardrail.engine.embedded.token_match import Encoded, TokenMatch
from guardrail.engine.onednn import Linear

LIKENESSES = 1 << 24  # compared pairs of words that lie in memory at once, unless a single text has more


@dataclass(frozen=True, slots=True)
class Resident:
    """A prepared policy of K statements: what they bring into the reader by themselves [K, D], and their words."""

    rows: Tensor
    encoded: Encoded

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Together:
    """Policies side by side, each on `width` rows, zeros where it has no more statements.

    `rows` [P width, D]; of their U words, row by row: keys [H, 2 D / H, U], values of each head H times [U, D / H], `share` [U] one over
    the words of its row, `starts` [P width] the first word of each row.
    """

    policies: tuple[Resident, ...]
    rows: Tensor
    keys: Tensor
    values: tuple[Tensor, ...]
    share: Tensor
    starts: Tensor

    @property
    def size(self) -> int:
        """Bytes, without those of the policies themselves."""
        return sum(each.nbytes for each in (self.rows, self.keys, *self.values, self.share, self.starts))

    @classmethod
    def of(cls, policies: Sequence[Resident], width: int, heads: int) -> "Together":
        """Lay them out; some megabytes a policy are written."""
        rows = torch.cat([F.pad(policy.rows, (0, 0, 0, width - len(policy))) for policy in policies])
        encoded = [policy.encoded for policy in policies]
        owner = torch.cat([part.owner + place * width for place, part in enumerate(encoded)])
        size = torch.bincount(owner, minlength=len(rows))
        values = torch.cat([part.values for part in encoded]).float().view(len(owner), heads, rows.shape[1] // heads)
        return cls(
            tuple(policies),
            rows,
            torch.cat([part.keys for part in encoded]).permute(1, 2, 0).contiguous(),
            tuple(values[:, head].contiguous() for head in range(heads)),
            1.0 / size[owner],
            size.cumsum(0) - size,
        )


@dataclass(frozen=True, slots=True)
class Words:
    """Tokens of texts laid end to end as they are compared: unit vectors [tokens, H, 2 D / H], and which are compared at all [tokens]."""

    keys: Tensor
    compared: Tensor


class Match:
    """A `TokenMatch` laid out for the CPU."""

    def __init__(self, match: TokenMatch) -> None:
        self._match = match
        self.heads = match.heads
        self.out = Linear(match.out.weight, match.out.bias)

    def words(self, ids: Tensor, states: list[Tensor]) -> Words:
        """Token ids [tokens] and their states [tokens, D] before each layer."""
        compared = self._match.words(ids, torch.ones_like(ids, dtype=torch.bool))
        return Words(self._match.keys(states), compared)

    def __call__(self, block: Together, words: Words, piece: Piece) -> Tensor:
        """What each text of a piece meets of each row, before the last map: [texts P width, D], text by text."""
        place = slice(piece.first, piece.first + piece.texts * piece.tokens)
        compared = words.compared[place].view(piece.texts, piece.tokens)
        each = words.keys[place].view(piece.texts, piece.tokens, self.heads, -1)
        longest = max(1, int(compared.sum(1).max()))
        # The compared words of each text come first; behind them stands what is masked.
        order = compared.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :longest]
        there = compared.gather(1, order)
        picked = each.gather(1, order[:, :, None, None].expand(-1, -1, *each.shape[2:]))
        step = max(1, LIKENESSES // max(1, self.heads * len(block.share) * longest))
        found = [self._met(block, picked[at : at + step], there[at : at + step]) for at in range(0, piece.texts, step)]
        return torch.cat(found).to(words.keys.dtype)

    def _met(self, block: Together, keys: Tensor, there: Tensor) -> Tensor:
        texts, longest = there.shape
        if not len(block.share):  # policies of nothing but marks and idle words
            return block.rows.new_zeros(texts * len(block.rows), block.rows.shape[1])
        # A text's words one under another: the maximum over them then runs along whole rows.
        likeness = keys.flatten(0, 1).transpose(0, 1) @ block.keys  # [H, texts words, U]
        likeness = likeness.view(self.heads, texts, longest, len(block.share))
        if not bool(there.all()):
            likeness.masked_fill_(~there[..., None], -1.0)
        met = torch.sigmoid((likeness.amax(2).float() - self._match.shift) * self._match.gain) * block.share
        number = torch.arange(len(block.share)).repeat(texts)
        starts = (block.starts + torch.arange(texts)[:, None] * len(block.share)).flatten()
        summed = [
            F.embedding_bag(number, values, starts, mode="sum", per_sample_weights=met[head].flatten())
            for head, values in enumerate(block.values)
        ]
        return torch.cat(summed, dim=1)
