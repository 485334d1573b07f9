"""The reference: transformers' own module, untouched, with its attention replaced by the packed one. Slow, exact, on any device."""

import copy
import itertools
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from guardrail.engine.cope.attention_cpu import PackedAttention, Scoring
from guardrail.engine.cope.head import AnswerHead
from guardrail.engine.cope.kv import KVPool
from guardrail.engine.cope.rows import Plan
from guardrail.engine.cope.runner import Computed

_NAME = "guardrail_packed"
_PROVEN = frozenset({"gemma2", "llama", "qwen2"})
_PER_TOKEN_ROPE = frozenset({"default", "linear", "llama3", "yarn"})  # the others look at the longest position of the whole pass


class ReferenceRunner:
    """Runs plans through a transformers causal language model. Shares the model's weights, not its settings: what others set on the model
    object, its attention implementation above all, does not reach the runner.

    Raises ValueError for an architecture that the tests do not prove.
    """

    name = "reference"

    def __init__(self, model: Any, pool: KVPool, head: AnswerHead, *, most_tokens: int = 8192) -> None:
        config = model.config
        if config.model_type not in _PROVEN:
            raise ValueError(f"no exact runner for the architecture {config.model_type!r}; known are {', '.join(sorted(_PROVEN))}")
        rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
        if rope not in _PER_TOKEN_ROPE:
            raise ValueError(
                f"positions of type {rope!r} depend on what else is in the pass; known are {', '.join(sorted(_PER_TOKEN_ROPE))}"
            )
        self.pool = pool
        self.most_tokens = most_tokens
        self._head = head
        decoder = model.base_model
        shared = {id(tensor): tensor for tensor in itertools.chain(decoder.parameters(), decoder.buffers())}
        self._decoder = copy.deepcopy(decoder, shared).eval()
        self._decoder.set_attn_implementation(_NAME)

    @torch.inference_mode()
    def forward(self, planned: Plan) -> Computed:
        """Run one pass; see `Runner`."""
        device = self.pool.kv.device
        hidden = self._decoder(
            input_ids=torch.from_numpy(planned.ids).to(device)[None],
            position_ids=torch.from_numpy(planned.positions).to(device)[None],
            use_cache=False,
            packed=PackedAttention(planned, self.pool),
        ).last_hidden_state[0]
        logits, log_total, probe = self._head(hidden, torch.from_numpy(planned.reads).to(device))
        return Computed(
            logits=logits.cpu().numpy(),
            log_total=log_total.cpu().numpy(),
            probe=None if probe is None else probe.cpu().numpy(),
            bucket=planned.tokens,
        )


def _attention(module: Any, *tensors: Tensor | None, packed: PackedAttention, **settings: Any) -> tuple[Tensor, None]:
    """What transformers calls, with query, key, value and mask of a batch of one: keeps what stays, attends by the plan, not the mask."""
    query, key, value, _ = tensors
    assert query is not None and key is not None and value is not None  # only the mask may be  # noqa: PT018
    layer = module.layer_idx
    scoring = Scoring(settings["scaling"], settings.get("softcap"), settings.get("sliding_window"))
    packed.store(layer, key[0], value[0])
    _, heads, tokens, size = query.shape
    grouped = query[0].view(key.shape[1], -1, tokens, size).transpose(1, 2).contiguous()
    attended = packed.attend(layer, grouped, (key[0].contiguous(), value[0].contiguous()), scoring)
    return attended.view(1, tokens, heads, size).to(query.dtype), None


AttentionInterface.register(_NAME, _attention)
