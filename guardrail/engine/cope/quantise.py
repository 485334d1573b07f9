"""Projections with eight bits a weight: int8 for CPUs, fp8 (e4m3) for GPUs that have it.

One scale for each output row of a weight, one for each token of the input, found as it comes: what a token is scored does not depend on
what else is in the batch. (Row-wise scaling: Micikevicius et al., "FP8 Formats for Deep Learning", arXiv 2209.05433; and vLLM's and
torchao's practice for both types.)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from guardrail.engine.cope.packed_weights import Projection

Kind = Literal["int8", "fp8"]

_INT8_MOST = 127.0
_FP8_MOST = 448.0  # the largest e4m3 number
_ONEDNN = torch.ops.onednn
# A layer's fused projections, as packed weights name them, and the modules they are made of.
PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "o": ("self_attn.o_proj",),
        "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
        "down": ("mlp.down_proj",),
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class Int8Projection:
    """[T, in] -> [T, out]: int8 products summed in int32, so the sums are exact. `scale` [out] fp32.

    `weight` is int8 [out, in], or that laid out by oneDNN where `packed`. A NaN in a token is a NaN in all that comes of it.
    """

    weight: Tensor
    scale: Tensor
    packed: bool

    @classmethod
    def of(cls, weight: Tensor) -> "Int8Projection":
        """Quantise a weight [out, in]."""
        exact = weight.detach().float()
        scale = exact.abs().amax(1).div_(_INT8_MOST).clamp_min_(torch.finfo(torch.float32).tiny)
        rounded = exact.div_(scale[:, None]) if exact.data_ptr() != weight.data_ptr() else exact / scale[:, None]
        whole = rounded.round_().to(torch.int8)
        if whole.device.type == "cpu" and _onednn_is_exact():
            return cls(_ONEDNN.qlinear_prepack(whole, None), scale, packed=True)
        return cls(whole, scale, packed=False)

    def __call__(self, inputs: Tensor, /) -> Tensor:
        wide = inputs.float()
        scale = wide.abs().amax(1, keepdim=True).div_(_INT8_MOST).clamp_min_(torch.finfo(torch.float32).tiny)
        rounded = (wide / scale).round_()
        if self.packed:
            found = _packed_product(rounded, self.weight, self.scale)
        else:
            found = torch._int_mm(rounded.to(torch.int8), self.weight.t()).float().mul_(self.scale)  # noqa: SLF001  (its only name)
        return found.mul_(scale).to(inputs.dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Int8Projection":
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Fp8Projection:
    """[T, in] -> [T, out] in `dtype`: e4m3 weight [out, in] and inputs, fp32 sums. `scale` [out] fp32.

    On CUDA torch's scaled product runs it; elsewhere the same rounded numbers are multiplied in fp32, which is for tests.
    """

    weight: Tensor
    scale: Tensor
    dtype: torch.dtype

    @classmethod
    def of(cls, weight: Tensor, dtype: torch.dtype | None = None) -> "Fp8Projection":
        """Quantise a weight [out, in], for a model in `dtype` (its own). Raises ValueError for a shape that the GPU does not take."""
        if weight.shape[0] % 16 or weight.shape[1] % 16:
            raise ValueError(f"an fp8 product needs a weight whose sides are multiples of 16, not {tuple(weight.shape)}")
        rounded, scale = fp8_rows(weight.detach())
        return cls(rounded, scale, dtype or weight.dtype)

    def __call__(self, inputs: Tensor, /) -> Tensor:
        return self.scaled(*fp8_rows(inputs))

    def scaled(self, inputs: Tensor, scales: Tensor, /) -> Tensor:
        """For inputs [T, in] that are e4m3 already, times `scales` [T] fp32."""
        if inputs.is_cuda:
            found = torch._scaled_mm(  # noqa: SLF001  (its only name)
                inputs, self.weight.t(), scale_a=scales[:, None], scale_b=self.scale[None, :], out_dtype=torch.bfloat16
            )
            return found.to(self.dtype)
        return (inputs.float() @ self.weight.float().t()).mul_(self.scale).mul_(scales[:, None]).to(self.dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Fp8Projection":
        return self


def fp8_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    """[R, N] -> e4m3 [R, N] and the scale [R] fp32 of each row."""
    wide = values.float()
    scale = wide.abs().amax(1).div_(_FP8_MOST).clamp_min_(torch.finfo(torch.float32).tiny)
    return (wide / scale[:, None]).to(torch.float8_e4m3fn), scale


def quantise_layers(model: Any, kind: Kind, *, exact: Callable[[str], Tensor] | None = None) -> dict[str, Projection]:
    """Replace a decoder's linear layers by quantised ones, in place and one at a time, so that their old weights are freed as it goes.

    Returns them under the names that `PackedWeights.from_gemma2` takes. `exact` gives a weight by its name in more precision than the
    model holds it in. The answer head and the embeddings stay as they are. Raises ValueError for a shape that fp8 does not take.
    """
    made: dict[str, Projection] = {}
    for number, layer in enumerate(model.base_model.layers):
        for name, parts in PARTS.items():
            linears = [layer.get_submodule(part) for part in parts]
            weights = [
                exact(f"model.layers.{number}.{part}.weight").to(linear.weight.device) if exact is not None else linear.weight.detach()
                for part, linear in zip(parts, linears, strict=True)
            ]
            fused = torch.cat(weights) if len(weights) > 1 else weights[0]
            projection = Int8Projection.of(fused) if kind == "int8" else Fp8Projection.of(fused, model.dtype)
            made[f"layers.{number}.{name}"] = projection
            shared, start = _Shared(projection), 0
            for part, linear in zip(parts, linears, strict=True):
                rows = slice(start, start + linear.weight.shape[0])
                layer.set_submodule(part, _Part(shared, rows, linear.bias, last=part == parts[-1]))
                start = rows.stop
    return made


class _Shared:
    """One fused projection behind several modules that are called with the same input, one after another: it is computed once."""

    def __init__(self, projection: Projection) -> None:
        self.projection = projection
        self._inputs: Tensor | None = None
        self._outputs: Tensor | None = None

    def __call__(self, inputs: Tensor, *, last: bool) -> Tensor:
        if self._inputs is not inputs or self._outputs is None:
            flat = self.projection(inputs.reshape(-1, inputs.shape[-1]))
            self._inputs, self._outputs = inputs, flat.view(*inputs.shape[:-1], -1)
        found = self._outputs
        if last:
            self._inputs = self._outputs = None
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Shared":
        return _Shared(self.projection)


class _Part(nn.Module):
    """Some outputs of a fused projection, in place of a linear layer; the last of its parts lets go of what was computed."""

    def __init__(self, shared: _Shared, rows: slice, bias: Tensor | None, *, last: bool) -> None:
        super().__init__()
        self._shared = shared
        self._rows = rows
        self._last = last
        self.bias = bias

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., in] -> [..., rows]."""
        found = self._shared(inputs, last=self._last)[..., self._rows]
        return found if self.bias is None else found + self.bias


def _packed_product(rounded: Tensor, packed: Tensor, scale: Tensor) -> Tensor:
    """oneDNN's fast path takes unsigned inputs: they are moved up by 128, and it takes the weights' part of that away again."""
    zeros = torch.zeros(len(scale), dtype=torch.int32)
    found: Tensor = _ONEDNN.qlinear_pointwise(
        rounded.add_(128).to(torch.uint8), 1.0, 128, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return found


@cache
def _onednn_is_exact() -> bool:
    """Whether oneDNN's int8 product is there and right to the last bit, the largest numbers included: some CPUs add in 16 bits."""
    numbers = torch.arange(32 * 64) * 7919 % 255 - 127
    inputs = torch.cat([torch.full((2, 64), 127.0), (numbers.view(32, 64) * 31 % 255 - 127).float()])
    weight = torch.cat([torch.full((2, 64), 127), torch.full((2, 64), -127), numbers.view(32, 64)]).to(torch.int8)
    expected = inputs.double() @ weight.double().t()
    try:
        found = _packed_product(inputs.clone(), _ONEDNN.qlinear_prepack(weight.clone(), None), torch.ones(len(weight)))
    except (RuntimeError, AttributeError):  # no oneDNN in this build, or another signature
        return False
    return bool((found.double() == expected).all())
