"""Softmax attention over keys that lie in several places, on a CPU.

Queries are [n, H, T, d]. A part is keys and values, [n, H, K, d] for all queries or [n, H, P, K, d] for each of P equal stretches of the
queries its own, and which keys are `absent` [P, 1, K] (None: none). Never may all of a query's keys be absent.
"""

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor

_LOG2_E = 1.4426950408889634
_LEAST = 2.0**-100  # of a sum of weights; below, the largest of them comes near what floats can hold

Part = tuple[Tensor, Tensor, Tensor | None]
Attention = Callable[[Tensor, Sequence[Part]], Tensor]


def attend(query: Tensor, parts: Sequence[Part]) -> Tensor:
    """What the queries see in all parts together, [n, H, T, d] fp32.

    The scores are not shifted by their maximum: finding it takes as long as all the rest of the softmax. A query whose weights leave the
    range of floats (a score beyond about 88, or all of them under -69) sees NaN; `attend_shifted` serves it.
    """
    return _seen([_scores(query, key, absent) for key, _, absent in parts], parts)


def attend_shifted(query: Tensor, parts: Sequence[Part]) -> Tensor:
    """The same for scores of any size."""
    scores = [_scores(query, key, absent) for key, _, absent in parts]
    top = reduce(torch.maximum, (score.amax(-1, keepdim=True) for score in scores))
    return _seen([score.sub_(top) for score in scores], parts)


def _seen(scores: Sequence[Tensor], parts: Sequence[Part]) -> Tensor:
    total = reduce(torch.add, (score.exp2_().sum(-1, keepdim=True) for score in scores))
    seen = reduce(torch.add, (_weighed(score, value) for score, (_, value, _) in zip(scores, parts, strict=True)))
    return torch.div(seen, torch.threshold_(total, _LEAST, torch.nan))


def _scores(query: Tensor, key: Tensor, absent: Tensor | None) -> Tensor:
    """[n, H, T, K], such that weights are powers of two; fp32 throughout, for in bfloat16 a score of 30 would be off by up to 0.06."""
    batch, length, size = key.shape[:-2].numel(), key.shape[-2], key.shape[-1]
    asking, asked = query.float().view(batch, -1, size), key.float().view(batch, length, size)
    found = torch.baddbmm(asking.new_empty(1, 1, 1), asking, asked.transpose(1, 2), beta=0, alpha=_LOG2_E * size**-0.5)
    if absent is not None:
        found.view(*key.shape[:-2], -1, length).masked_fill_(absent, -torch.inf)
    return found.view(*query.shape[:3], length)


def _weighed(weights: Tensor, value: Tensor) -> Tensor:
    """Weights [n, H, T, K] times values: [n, H, T, d] fp32."""
    batch, length, size = value.shape[:-2].numel(), value.shape[-2], value.shape[-1]
    found = torch.bmm(weights.view(batch, -1, length).to(value.dtype), value.view(batch, length, size))
    return found.float().view(*weights.shape[:3], size)
