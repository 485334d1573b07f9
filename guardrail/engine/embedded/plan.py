"""In what order and in which pieces texts and policies are read: pure bookkeeping, no tensor but masks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import torch
from torch import Tensor

ROWS_A_PASS = 2048  # statement vectors that pass the reader together
SCORES_A_PIECE = 1 << 19  # attention weights that lie in memory at once, unless a single text has more


@dataclass(frozen=True, slots=True)
class Run:
    """`texts` texts of `tokens` tokens each, whose first token is the `first` of the pass."""

    first: int
    texts: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of texts under the same policies, each of which takes `width` rows, `absent` [P, 1, K] marks those that are none.

    `places`: where the answers go, text by text, policy by policy.
    """

    first: int
    texts: int
    tokens: int
    policies: tuple[int, ...]
    width: int
    absent: Tensor | None
    places: tuple[int, ...]


class Plan:
    """How the `pairs` (text, policy) are read: texts in `order`, trunk attention in `runs`, the reader in `passes` of pieces."""

    def __init__(self, texts: Sequence[Sequence[int]], sizes: Sequence[int], pairs: Sequence[tuple[int, int]], heads: int) -> None:
        self.pairs = len(pairs)
        asked: dict[int, dict[int, int]] = {}
        for place, (text, policy) in enumerate(pairs):
            asked.setdefault(text, {})[policy] = place
        self._asked, self._sizes, self._heads = asked, sizes, heads
        wanted = {text: tuple(sorted(policies, key=lambda policy: (sizes[policy], policy))) for text, policies in asked.items()}
        self.order = sorted(range(len(texts)), key=lambda text: (len(texts[text]), wanted[text]))
        self.runs: list[Run] = []
        pieces: list[Piece] = []
        first = 0
        for tokens, same in groupby(self.order, key=lambda text: len(texts[text])):
            alike = [list(group) for _, group in groupby(same, key=lambda text: wanted[text])]
            count = sum(map(len, alike))
            self.runs += (Run(first + at * tokens, many, tokens) for at, many in self._cut(count, tokens * tokens))
            for group in alike:
                pieces += self._pieces(group, wanted[group[0]], first, tokens)
                first += len(group) * tokens
        self.passes = list(_passes(pieces))

    def _pieces(self, group: Sequence[int], policies: tuple[int, ...], first: int, tokens: int) -> Iterator[Piece]:
        for block in _blocks(policies, tuple(self._sizes[policy] for policy in policies)):
            sizes = tuple(self._sizes[policy] for policy in block)
            width = sizes[-1]
            for at, many in self._cut(len(group), len(block) * width * (tokens + width)):
                places = tuple(self._asked[text][policy] for text in group[at : at + many] for policy in block)
                yield Piece(first + at * tokens, many, tokens, block, width, _absent(sizes), places)

    def _cut(self, count: int, scores: int) -> Iterator[tuple[int, int]]:
        """(start, length) of stretches of `count` texts whose attention weights, `scores` a head and text, stay within bounds."""
        step = max(1, SCORES_A_PIECE // (self._heads * scores))
        return ((at, min(step, count - at)) for at in range(0, count, step))


def roomy(count: int) -> int:
    """A number not much above: products of few different sizes, for oneDNN prepares each size once."""
    step = max(8, 1 << max(0, count.bit_length() - 5))
    return -(-count // step) * step


@lru_cache(256)
def _blocks(policies: tuple[int, ...], sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Neighbours of like size together, so that few rows are none; not more than a pass holds."""
    found: list[list[int]] = []
    least = 0
    for policy, size in zip(policies, sizes, strict=True):
        if found and size <= max(4, least * 5 // 4) and (len(found[-1]) + 1) * size <= ROWS_A_PASS:
            found[-1].append(policy)
        else:
            found.append([policy])
            least = size
    return [tuple(block) for block in found]


@lru_cache(256)
def _absent(sizes: tuple[int, ...]) -> Tensor | None:
    if sizes[0] == sizes[-1]:
        return None
    return (torch.arange(sizes[-1]) >= torch.tensor(sizes)[:, None])[:, None, :]


def _passes(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    held: list[Piece] = []
    rows = 0
    for piece in pieces:
        more = piece.texts * len(piece.policies) * piece.width
        if held and rows + more > ROWS_A_PASS:
            yield held
            held, rows = [], 0
        held.append(piece)
        rows += more
    if held:
        yield held
