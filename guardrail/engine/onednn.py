"""Matrix products through oneDNN where it is there: on CPUs whose BLAS picks narrow vectors it is about twice as fast in fp32, and small
batches gain again from weights laid out once in its own order. The numbers are plain products in the operands' precision either way.

The operators are the ones that torch's own compiler emits for frozen CPU models. Operands must be dense: for a weight with gaps between
its rows oneDNN falls back to code that is a thousand times slower.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

_PACKED_FOR = 128  # the batch a layout is chosen for; it serves every other one too
_linear: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
_reorder: Any = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
_bfloat16: Any = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
_HERE = torch.backends.mkldnn.is_available() and _linear is not None and _reorder is not None  # type: ignore[no-untyped-call]


def usable(tensor: Tensor) -> bool:
    """Whether `linear` and `pack` take a short cut for this tensor: fp32 on the CPU."""
    return _HERE and tensor.device.type == "cpu" and tensor.dtype == torch.float32


def linear(inputs: Tensor, weight: Tensor) -> Tensor:
    """inputs [M, in] @ weight [out, in]^T. `weight` is a matrix, the transposed view of one, or what `pack` made of one."""
    if usable(inputs):
        found: Tensor = _linear(inputs, weight, None, "none", [], "")
        return found
    return F.linear(inputs, weight)


def gelu_linear(inputs: Tensor, weight: Tensor) -> Tensor:
    """gelu(inputs @ weight^T), tanh approximation, for what `usable` allows."""
    found: Tensor = _linear(inputs, weight, None, "gelu", [], "tanh")
    return found


def times_linear(inputs: Tensor, weight: Tensor, factor: Tensor) -> Tensor:
    """(inputs @ weight^T) * factor, for what `usable` allows."""
    found: Tensor = _linear.binary(inputs, factor, weight, None, "mul")
    return found


def pack(weight: Tensor) -> Tensor:
    """A weight [out, in] in oneDNN's own order, a copy; only `linear` and its kin read it."""
    packed: Tensor = _reorder(weight.contiguous(), _PACKED_FOR)
    return packed


class Linear:
    """A linear map whose weights [out, in] are laid out once, with what usually follows it done in the same pass.

    Weights and inputs are of one dtype, fp32 or bfloat16; where oneDNN does not serve it, the same is computed by torch.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._packed = usable(weight) or (_HERE and weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and bool(_bfloat16()))
        self._weight = pack(weight.detach()) if self._packed else weight.detach()
        self._bias = bias.detach()

    def __call__(self, inputs: Tensor) -> Tensor:
        """[M, in] -> [M, out]."""
        return self._apply(inputs, "none")

    def gelu(self, inputs: Tensor) -> Tensor:
        """gelu of the map, the exact one (erf)."""
        return self._apply(inputs, "gelu") if self._packed else F.gelu(self._apply(inputs, "none"))

    def plus(self, inputs: Tensor, beside: Tensor) -> Tensor:
        """The map plus `beside` [M, out], which must be dense."""
        if not self._packed:
            return self._apply(inputs, "none").add_(beside)
        found: Tensor = _linear.binary(inputs, beside, self._weight, self._bias, "add")
        return found

    def _apply(self, inputs: Tensor, after: str) -> Tensor:
        if not self._packed:
            return F.linear(inputs, self._weight, self._bias)
        found: Tensor = _linear(inputs, self._weight, self._bias, after, [], "none")
        return found
