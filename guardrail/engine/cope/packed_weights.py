"""A Gemma-2 model's weights as the flat runners want them: fused projections, norms as 1 + w, nothing that the forward does not read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from guardrail.engine.cope.attention_cpu import Scoring


class Projection(Protocol):
    """A linear map without bias: [T, in] -> [T, out], in the model's dtype, on the device of its weights."""

    def __call__(self, inputs: Tensor, /) -> Tensor:
        """Apply it."""
        ...


@runtime_checkable
class ScaledProjection(Projection, Protocol):
    """A projection over e4m3 weights: whatever makes its input may hand it over in e4m3 already, without a pass of its own for that."""

    def scaled(self, inputs: Tensor, scales: Tensor, /) -> Tensor:
        """Apply it to `inputs` [T, in] e4m3 times `scales` [T] fp32, one a token (its largest magnitude / 448)."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class DenseProjection:
    """A projection whose `weight` [out, in] is kept as it is. Runners may lay it out anew for their device."""

    weight: Tensor

    def __call__(self, inputs: Tensor, /) -> Tensor:
        return F.linear(inputs, self.weight)


@dataclass(frozen=True, slots=True, eq=False)
class PackedLayer:
    """One decoder layer. Norm weights are fp32 and hold 1 + w.

    `qkv`: [T, N] -> [T, (heads + 2 kv heads) * head_dim], queries first; `o` back to [T, N]; `gate_up`: [T, N] -> [T, 2 I], the gate
    first; `down`: [T, I] -> [T, N].
    """

    qkv: Projection
    o: Projection
    gate_up: Projection
    down: Projection
    before_attention: Tensor
    after_attention: Tensor
    before_mlp: Tensor
    after_mlp: Tensor
    scoring: Scoring


@dataclass(frozen=True, slots=True, eq=False)
class PackedWeights:
    """Everything a flat runner reads, the answer head apart.

    `embedding` [V, N] and its scale are in the model's dtype; `final_norm` [N] holds 1 + w in fp32, `inv_freq` [head_dim / 2] too.
    """

    layers: tuple[PackedLayer, ...]
    embedding: Tensor
    embed_scale: Tensor
    final_norm: Tensor
    inv_freq: Tensor
    heads: int
    kv_heads: int
    head_dim: int
    eps: float

    @classmethod
    def from_gemma2(cls, model: Any, projections: Mapping[str, Projection] | None = None) -> Self:
        """Pack a transformers `Gemma2ForCausalLM`. Its weights move into the fused tensors and the model's own become views of them, so
        that both exist once.

        `projections` replaces fused weights by name, `layers.<number>.qkv`, `.o`, `.gate_up` or `.down` (quantised ones, say).
        Raises ValueError for a configuration that the flat maths does not cover.
        """
        config, decoder = model.config, model.model
        _check(config)
        chosen = projections or {}
        return cls(
            layers=tuple(_layer(config, number, layer, chosen) for number, layer in enumerate(decoder.layers)),
            embedding=decoder.embed_tokens.weight.detach(),
            embed_scale=decoder.embed_tokens.embed_scale.to(decoder.embed_tokens.weight.dtype),
            final_norm=_norm(decoder.norm),
            inv_freq=decoder.rotary_emb.inv_freq.float(),
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            eps=config.rms_norm_eps,
        )


def fused_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Name and weight [out, in] of each fused projection, layer by layer: what to quantise, under the names `from_gemma2` takes."""
    for number, layer in enumerate(model.model.layers):
        for name, parts in _parts(layer).items():
            yield f"layers.{number}.{name}", _fused(parts)


def _check(config: Any) -> None:
    if config.model_type != "gemma2":
        raise ValueError(f"packed weights are for gemma2, not {config.model_type!r}; the reference runner serves others")
    if config.attn_logit_softcapping is None or config.hidden_activation != "gelu_pytorch_tanh" or config.attention_bias:
        raise ValueError("packed weights need Gemma-2's attention soft-cap, gelu_pytorch_tanh and no attention bias")
    if config.rope_parameters["rope_type"] != "default":
        raise ValueError(f"packed weights need plain rotary positions, not {config.rope_parameters['rope_type']!r}")


def _layer(config: Any, number: int, layer: Any, chosen: Mapping[str, Projection]) -> PackedLayer:
    def projection(name: str) -> Projection:
        return chosen.get(f"layers.{number}.{name}") or DenseProjection(_fused(_parts(layer)[name]))

    return PackedLayer(
        qkv=projection("qkv"),
        o=projection("o"),
        gate_up=projection("gate_up"),
        down=projection("down"),
        before_attention=_norm(layer.input_layernorm),
        after_attention=_norm(layer.post_attention_layernorm),
        before_mlp=_norm(layer.pre_feedforward_layernorm),
        after_mlp=_norm(layer.post_feedforward_layernorm),
        scoring=Scoring(layer.self_attn.scaling, config.attn_logit_softcapping, layer.self_attn.sliding_window),
    )


def _parts(layer: Any) -> dict[str, tuple[nn.Parameter, ...]]:
    attention, mlp = layer.self_attn, layer.mlp
    return {
        "qkv": (attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight),
        "o": (attention.o_proj.weight,),
        "gate_up": (mlp.gate_proj.weight, mlp.up_proj.weight),
        "down": (mlp.down_proj.weight,),
    }


def _fused(parts: tuple[nn.Parameter, ...]) -> Tensor:
    if len(parts) == 1:
        return parts[0].detach()
    if (whole := _already(parts)) is not None:
        return whole
    fused = torch.cat([part.detach() for part in parts])
    for part, view in zip(parts, torch.split(fused, [len(part) for part in parts]), strict=True):
        part.data = view
    return fused


def _already(parts: tuple[nn.Parameter, ...]) -> Tensor | None:
    """The tensor that parts are neighbouring views of, if an earlier call fused them."""
    first = parts[0].detach()
    rows, width = sum(len(part) for part in parts), first.shape[1]
    places = [part.data_ptr() for part in parts]
    follow = all(later == place + part.numel() * part.element_size() for place, later, part in zip(places, places[1:], parts, strict=False))
    if not follow or first.untyped_storage().nbytes() < (first.storage_offset() + rows * width) * first.element_size():
        return None
    return first.as_strided((rows, width), (width, 1), first.storage_offset())


def _norm(module: Any) -> Tensor:
    weight: Tensor = module.weight.detach()
    return 1.0 + weight.float()
