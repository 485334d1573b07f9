"""The forward of an adapter: a decoder, its last layer's state at each text's last token, one linear head in fp32."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from guardrail.engine.adapter.frame import Objective

GRAIN = 32  # texts are padded to a multiple of it: a text's shape depends on its own length alone


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Texts of one pass, padded on the right: `ids` and `mask` [rows, longest] int64, `last` [rows]: the place of each last token."""

    ids: Tensor
    mask: Tensor
    last: Tensor


def batch_of(rows: Sequence[Sequence[int]], pad: int, device: torch.device | str = "cpu", *, grain: int = GRAIN) -> Batch:
    """Put rows of at least one token together; the longest, rounded up to `grain`, is the length of all."""
    longest = padded(max(map(len, rows)), grain)
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
    mask = (torch.arange(longest)[None] < lengths[:, None]).long()
    return Batch(ids.to(device), mask.to(device), (lengths - 1).to(device))


def padded(length: int, grain: int = GRAIN) -> int:
    """The length that a row of so many tokens is padded to."""
    return -(-length // grain) * grain


def decoder_of(model: Any) -> Any:
    """The part of a causal language model that ends with its last hidden state. What comes behind it is never computed.

    Attention is fused, so that memory grows with a text's length and not with its square, but where scores are capped: there only
    eager attention is right in every version of transformers.
    """
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is None:
        model.set_attn_implementation("sdpa")
    return model.get_decoder()


def logits(decoder: Any, head: nn.Linear, batch: Batch) -> Tensor:
    """[rows, labels] fp32. The decoder's last state is what transformers calls `hidden_states[-1]`: behind the final norm."""
    states = decoder(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).last_hidden_state
    found: Tensor = head(states[torch.arange(len(states), device=states.device), batch.last].float())
    return found


def probabilities(found: Tensor, objective: Objective) -> Tensor:
    """Of logits [rows, labels]. One output alone is a yes or no: softmax over it would always say 1."""
    if objective == "multilabel" or found.shape[-1] == 1:
        return torch.sigmoid(found.float())
    return torch.softmax(found.float(), -1)
