"""Random models, small enough for tests and sharp enough that every mechanism shows: scores reach the soft-cap, norms are no identity,
the answer's logits spread, a low-rank adapter is merged in. And the naive forward that all else is measured against.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from guardrail.engine.cope.head import AnswerHead
from guardrail.engine.cope.kv import PAGE, KVPool, KVShape
from guardrail.engine.cope.probe import ProbeWeights
from guardrail.engine.cope.runner import Read

ZERO, ONE = 10, 11
VOCABULARY = 512
TAIL = np.array([7, 8, 9, 8, 5], np.int32)  # stands for the answer header

_TINY: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
}
_MEDIUM: dict[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "query_pre_attn_scalar": 128,
    "sliding_window": 4096,
    "max_position_embeddings": 8192,
}


def tiny_gemma2(*, seed: int = 11, dtype: torch.dtype = torch.float32, **overrides: Any) -> Gemma2ForCausalLM:
    """Under a million parameters: 4 layers, 2 query heads a key head; `sliding_window=` and the like override its configuration.

    The seed is one whose scores spread over (0, 1).
    """
    settings = {**_TINY, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 4096, **overrides}
    return _sharpened(Gemma2ForCausalLM(Gemma2Config(**settings, attn_implementation="eager")), seed).to(dtype)


def medium_gemma2(*, seed: int = 0) -> Gemma2ForCausalLM:
    """About 138 million parameters, in which matrix products dominate: what speed is measured on."""
    model = _sharpened(Gemma2ForCausalLM(Gemma2Config(**_MEDIUM, attn_implementation="eager")), seed)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(0.2)  # keeps the answer's logits off the final soft-cap
    return model


def tiny_qwen2(*, seed: int = 0, **overrides: Any) -> Qwen2ForCausalLM:
    """No soft-cap, no window; biases on queries, keys and values."""
    return _sharpened(Qwen2ForCausalLM(Qwen2Config(**{**_TINY, **overrides}, attn_implementation="eager")), seed)


def tiny_llama(*, seed: int = 0, **overrides: Any) -> LlamaForCausalLM:
    """No soft-cap, no window, no biases."""
    return _sharpened(LlamaForCausalLM(LlamaConfig(**{**_TINY, **overrides}, attn_implementation="eager")), seed)


def naive(model: Any, ids: Sequence[int], zero: int = ZERO, one: int = ONE) -> float:
    """p("1") against p("0"): the whole prompt through the stock model with stock eager attention."""
    logits = naive_logits(model, ids)
    return float(torch.sigmoid(logits[one] - logits[zero]))


@torch.inference_mode()
def naive_logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """Final logits [V] fp32 at the last token."""
    assert model.config._attn_implementation == "eager", "the naive forward is only right with eager attention"
    prompt = torch.as_tensor(np.asarray(ids, np.int64)).to(model.device)[None]
    return model(input_ids=prompt, use_cache=False, logits_to_keep=1).logits[0, -1].float()


def probability(read: Read | None) -> float:
    """p("1") against p("0") of an answer."""
    assert read is not None
    return 1.0 / (1.0 + math.exp(read.zero - read.one))


def pool_for(model: Any, pages: int = 256) -> KVPool:
    """A pool of so many pages in the model's dtype, on its device."""
    shape, dtype = KVShape.of(model.config), model.dtype
    return KVPool(shape, budget_bytes=pages * PAGE * shape.bytes_per_token(dtype), dtype=dtype, device=model.device)


def head_of(model: Any, *, probe: bool = False) -> AnswerHead:
    """The model's head for ZERO and ONE, with a random stream probe if asked."""
    return AnswerHead.of(model, ZERO, ONE, probe=random_probe(model.config.hidden_size) if probe else None)


def random_probe(width: int, seed: int = 5) -> ProbeWeights:
    """A stream probe whose scores spread over (0, 1)."""
    return ProbeWeights((np.random.default_rng(seed).standard_normal(width) / math.sqrt(width)).astype(np.float32), 0.1)


def random_tokens(generator: np.random.Generator, count: int, vocabulary: int = VOCABULARY) -> NDArray[np.int32]:
    """`count` ids, int32, no special ones."""
    return generator.integers(3, vocabulary, count, dtype=np.int32)


def _sharpened(model: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                around = 0.0 if model.config.model_type == "gemma2" else 1.0  # Gemma's norms multiply by 1 + weight
                parameter.copy_(around + 0.3 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.3 * noise)
            elif "embed" in name or "lm_head" in name:
                parameter.copy_(0.35 * noise)
            elif "q_proj" in name or "k_proj" in name:
                parameter.copy_(noise * (2.6 / math.sqrt(parameter.shape[1])))
            else:
                parameter.copy_(noise / math.sqrt(parameter.shape[1]))
            if "proj" in name and parameter.ndim == 2:
                _merge_adapter(parameter, generator)
    return model.eval().requires_grad_(False)


def _merge_adapter(weight: torch.Tensor, generator: torch.Generator, rank: int = 8, alpha: int = 16) -> None:
    down = torch.randn(rank, weight.shape[1], generator=generator) / math.sqrt(weight.shape[1])
    up = 0.02 * torch.randn(weight.shape[0], rank, generator=generator)
    weight += (alpha / rank) * (up @ down)
