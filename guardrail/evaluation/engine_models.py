"""Random Gemma-2 models of a named shape: the same work as the real weights, and scores that spread.

What is compared on them is speed and agreement, never quality. Every mechanism is made to matter (attention is peaked enough to reach
into the soft cap, norms are not the identity, the two answers differ), so that a path that gets one wrong gives other scores.
"""

import importlib.util
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from guardrail.engine.cope.memory import require
from guardrail.errors import GuardrailError

SLACK = 1.1  # of the weights: what building them takes on top
LOGIT_SPREAD = 2.0  # standard deviation of one answer's logit
SCORE_SPREAD = 2.6  # of queries and keys; their product then has one of about 7 under a soft cap of 50
# Each layer so peaked multiplies rounding: in bf16 42 of them move a probability by up to 0.6, two and 40 milder ones by 0.05.
DEEP, PEAKED_OF_DEEP = 16, 2


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a Gemma-2 model, under transformers' own names."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    query_pre_attn_scalar: int
    sliding_window: int = 4096
    max_position_embeddings: int = 8192
    attn_logit_softcapping: float = 50.0
    final_logit_softcapping: float = 30.0

    @property
    def layer_weights(self) -> int:
        """Numbers in the matrices of one layer."""
        heads = 2 * self.num_attention_heads + 2 * self.num_key_value_heads
        return self.hidden_size * (heads * self.head_dim + 3 * self.intermediate_size)

    @property
    def body_weights(self) -> int:
        """Numbers in the matrices of all layers: what every pass reads."""
        return self.num_hidden_layers * self.layer_weights

    @property
    def parameters(self) -> int:
        """All numbers; input and output embeddings are one table."""
        norms = (4 * self.num_hidden_layers + 1) * self.hidden_size
        return self.body_weights + self.vocab_size * self.hidden_size + norms


# `small` has the proportions of the 9B (grouped queries 2:1, wide heads) and is big enough that matrix products dominate.
SHAPES = {
    "tiny": Shape(512, 128, 256, 4, 4, 2, 32, 32),
    "small": Shape(32_000, 768, 3072, 12, 8, 4, 128, 128),
    "gemma-2-9b": Shape(256_000, 3584, 14_336, 42, 16, 8, 256, 256),
}


def shape_of(config: Any) -> Shape:
    """The sizes of a transformers Gemma-2 configuration."""
    return Shape(**{name: getattr(config, name) for name in Shape.__dataclass_fields__})


def random_gemma2(
    shape: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", **changes: Any
) -> Any:
    """A `Gemma2ForCausalLM` with random weights, made on the device; attention is eager, the only one of transformers' that soft-caps.

    `changes` replace single sizes of the shape. Raises GuardrailError for an unknown shape, one that memory does not hold, or where
    transformers is not installed.
    """
    if shape not in SHAPES:
        raise GuardrailError(f"there is no shape {shape!r}; choose one of {', '.join(SHAPES)}")
    if importlib.util.find_spec("transformers") is None:
        raise GuardrailError("random models of this shape need transformers: pip install 'guardrail[cope]'")
    sizes = Shape(**(asdict(SHAPES[shape]) | changes))
    device = torch.device(device)
    require(
        int(sizes.parameters * dtype.itemsize * SLACK),
        device,
        f"the shape {shape} as {str(dtype).removeprefix('torch.')}",
        remedy="choose a smaller --shape or another --device",
    )
    # Loaded here: transformers is an extra, and seconds of import that the other benches need not wait for.
    from transformers import AutoModelForCausalLM, Gemma2Config  # noqa: PLC0415

    config = Gemma2Config(**asdict(sizes))
    with device:
        auto: Any = AutoModelForCausalLM  # untyped there
        model = auto.from_config(config, dtype=dtype, attn_implementation="eager")
    model.eval().requires_grad_(False)
    _fill(model, torch.Generator(device).manual_seed(seed))
    return model


def _fill(model: Any, generator: torch.Generator) -> None:
    layers = model.config.num_hidden_layers
    for name, parameter in model.named_parameters():
        if "norm" in name:
            spread = 0.3
        elif "embed" in name:
            spread = LOGIT_SPREAD / math.sqrt(parameter.shape[1])
        else:
            peaked = ("q_proj" in name or "k_proj" in name) and (layers <= DEEP or int(name.split(".")[2]) < PEAKED_OF_DEEP)
            spread = (SCORE_SPREAD if peaked else 1.0) / math.sqrt(parameter.shape[1])
        parameter.normal_(0.0, spread, generator=generator)
