"""Products of few tokens, where all the time goes into reading weights: torch's two libraries against a kernel that splits the sum.

An experiment, not part of the engine: it says whether replacing the library's products would pay.
"""

import statistics
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from gpu.bench import Bench, Table


@triton.jit
def split_product(
    inputs, weight, out,
    width: tl.constexpr, count: tl.constexpr, rows: tl.constexpr, tile: tl.constexpr, step: tl.constexpr, splits: tl.constexpr,
):  # fmt: skip
    """out [splits, rows, count] fp32 += inputs [rows, width] times weight [count, width], each split its share of `width`."""
    column = tl.program_id(0) * tile + tl.arange(0, tile)
    share = width // splits
    lane = tl.program_id(1) * share + tl.arange(0, step)
    row = tl.arange(0, rows)
    left = inputs + row[:, None] * width + lane[None, :]
    right = weight + column[:, None] * width + lane[None, :]
    sums = tl.zeros([rows, tile], tl.float32)
    for _ in range(0, share, step):
        sums = tl.dot(tl.load(left), tl.trans(tl.load(right)), sums)
        left += step
        right += step
    place = out + tl.program_id(1) * rows * count + row[:, None] * count + column[None, :]
    tl.store(place, sums)


@dataclass(frozen=True)
class Config:
    """How a product is cut: output `tile`, `step` of the sum, `splits` of it."""

    tile: int
    step: int
    splits: int
    warps: int
    stages: int


CONFIGS = {
    "qkv": (Config(128, 64, 2, 8, 4), Config(64, 128, 1, 4, 4)),
    "o": (Config(64, 128, 2, 4, 4), Config(128, 64, 4, 8, 4)),
    "gate_up": (Config(128, 64, 1, 8, 5), Config(128, 128, 1, 8, 3)),
    "down": (Config(64, 128, 4, 4, 4), Config(128, 64, 4, 8, 4)),
}


@torch.inference_mode()
def skinny(bench: Bench) -> list[Table]:
    """Microseconds of each of a layer's products over all layers in turn, so that no weight is found in a cache."""
    if not bench.on_gpu:
        return [Table("Products of few tokens", ("skipped: no GPU",))]
    table = Table("Products of few tokens, us each", ("weight", "tokens", "cublas", "cublaslt", "split kernels", "floor", "best error"))
    for tokens in (64, 128):
        for name, configs in CONFIGS.items():
            weights = [getattr(layer, name).weight for layer in bench.weights.layers]
            count, width = weights[0].shape
            inputs = torch.randn(tokens, width, device=bench.device).to(bench.dtype)
            library = []
            for preferred in ("cublas", "cublaslt"):
                torch.backends.cuda.preferred_blas_library(preferred)
                library.append(1e3 * bench.graphed(lambda w=weights, x=inputs: [F.linear(x, each) for each in w], 10) / len(weights))
            torch.backends.cuda.preferred_blas_library("default")
            wanted = inputs.double() @ weights[0].double().T
            ours, errors = [], []
            for config in configs:
                out = torch.empty(config.splits, tokens, count, device=bench.device)

                def run(x: torch.Tensor = inputs, w: list[torch.Tensor] = weights, o: torch.Tensor = out, c: Config = config) -> None:
                    for each in w:
                        _split(x, each, o, c)

                ours.append(1e3 * bench.graphed(run, 10) / len(weights))
                _split(inputs, weights[0], out, config)
                errors.append(float((out.sum(0).double() - wanted).norm() / wanted.norm()))
            floor = 1e6 * weights[0].nbytes / bench.bytes_per_s
            shown = " / ".join(f"{value:.1f}" for value in ours)
            table.rows.append((f"{name} {count}x{width}", tokens, *library, shown, floor, statistics.median(errors)))
    return [table]


def _split(inputs: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, config: Config) -> None:
    count, width = weight.shape
    split_product[(count // config.tile, config.splits)](
        inputs, weight, out, width=width, count=count, rows=len(inputs), tile=config.tile, step=config.step, splits=config.splits,
        num_warps=config.warps, num_stages=config.stages, enable_fp_fusion=True,
    )  # fmt: skip
