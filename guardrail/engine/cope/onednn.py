"""Matrix products through oneDNN where it is there: on CPUs whose BLAS picks narrow vectors it is about twice as fast in fp32, and small
batches gain again from weights laid out once in its own order. The numbers are plain fp32 products either way.

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
