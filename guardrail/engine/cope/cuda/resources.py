"""What the kernels cost on an H100 before there is one: compiled for sm_90a by the toolchain that Triton brings along.

A register that does not fit is spilled to memory a hundred times slower; matrix products that are not `wgmma` run at a fraction of the
rate; a literal outside fp32's normal range silently turns what it touches into fp64. All three are seen here.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from guardrail.engine.cope.cuda import attention, kernels, vocabulary
from guardrail.engine.cope.cuda.worklist import Tiling, tiling

_H100 = 132  # multiprocessors
_LAYER = {"heads": 8, "shared": 2, "size": 256}  # Gemma-2-9B
_WIDTH, _INNER = 3584, 14336


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel as it is launched: `types` of its run-time arguments by name, its `constants`, warps and pipeline stages."""

    name: str
    function: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    warps: int
    stages: int = 2


@dataclass(frozen=True, slots=True)
class Resources:
    """`registers` of each thread, bytes of shared memory a program and bytes `spilled`.

    `wgmma`: Hopper's matrix instructions are used; `doubles`: something is computed in fp64.
    """

    name: str
    registers: int
    shared: int
    spilled: int
    wgmma: bool
    doubles: bool

    def __str__(self) -> str:
        wgmma = ", wgmma" if self.wgmma else ""
        return f"{self.name}: {self.registers} registers, {self.shared / 1024:.0f} KiB shared, {self.spilled} bytes spilled{wgmma}"


def gemma_2_9b() -> Iterator[Kernel]:
    """Every kernel in the shapes that a 9B model's passes launch on an H100."""
    yield from _elementwise()
    for tokens in (128, 512, 1024):
        shape = tiling(tokens, _LAYER["heads"], _H100)
        for windowed in (False, True):
            yield _attend(shape, windowed=windowed, direct=shape.splits == 1)
        yield _merge(shape, fp8=False)
    yield _attend(tiling(1024, _LAYER["heads"], _H100), windowed=True, direct=False)  # the last layer, where rows are picked
    yield _merge(tiling(16, _LAYER["heads"], _H100), fp8=True)
    for block in (16, 128):
        yield _exp_sums(block)
    types = {"states": "*bf16", "rows": "*fp32", "sums": "*fp32", "out": "*fp32", "reads": "i32", "tiles": "i32", "cap": "fp32"}
    yield Kernel("answer", vocabulary.answer, types, {"width": _WIDTH, "block": 4096, "chunk": 2048}, warps=8)


def compiled(kernel: Kernel) -> Resources:
    """Compile for sm_90a and read off what it takes. Raises RuntimeError under Triton's interpreter, or when the assembler refuses."""
    if not isinstance(kernel.function, JITFunction):
        raise RuntimeError("kernels cannot be compiled in a process that runs Triton's interpreter (TRITON_INTERPRET)")  # noqa: TRY004
    names = list(kernel.function.arg_names)
    aligned = {(place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if _is_aligned(name, kernel.types)}
    source = ASTSource(
        fn=kernel.function,
        signature={name: kernel.types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in kernel.constants.items()},
        attrs=aligned,
    )
    options = {"num_warps": kernel.warps, "num_stages": kernel.stages, "enable_fp_fusion": True}
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    report = _assembled(built.asm["ptx"])
    registers, spilled = (re.search(pattern, report) for pattern in (r"Used (\d+) registers", r"(\d+) bytes spill stores"))
    if registers is None or spilled is None:
        raise RuntimeError(f"{kernel.name}: the assembler said nothing of registers: {report[:300]}")
    return Resources(
        kernel.name,
        registers=int(registers[1]),
        shared=built.metadata.shared,
        spilled=int(spilled[1]),
        wgmma="wgmma.mma_async" in built.asm["ptx"],
        doubles="f64" in built.asm["ttir"],
    )


def _assembled(ptx: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(ptx, encoding="utf-8")
        command = [get_ptxas(90).path, "-v", "-arch=sm_90a", str(source), "-o", str(target)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120).stderr  # noqa: S603  (Triton's own)


def _is_aligned(name: str, types: Mapping[str, str]) -> bool:
    return types.get(name, "").startswith("*") or name.endswith("_stride")


def _elementwise() -> Iterator[Kernel]:
    norms = {"hidden": "*bf16", "delta": "*bf16", "rows": "*i32", "out": "*bf16", "scales": "*fp32", "post": "*fp32", "pre": "*fp32"}
    for fp8 in (False, True):
        stored, kind = ("*fp8e4nv", "fp8") if fp8 else ("*bf16", "bf16")
        for gather in (False, True):
            types = {**norms, "normed": stored, "epsilon": "fp32"}
            constants = {"width": _WIDTH, "block": 4096, "add": True, "gather": gather, "fp8": fp8}
            yield Kernel(f"add_rms {kind}{' of some rows' if gather else ''}", kernels.add_rms, types, constants, warps=8)
        types = {"gate_up": "*bf16", "out": stored, "scales": "*fp32"}
        constants = {"width": _INNER, "block": 16384 if fp8 else 2048, "fp8": fp8}
        yield Kernel(f"geglu {kind}", kernels.geglu, types, constants, warps=16 if fp8 else 8)
    constants = {"width": _WIDTH, "block": 4096, "add": False, "gather": False, "fp8": False}
    yield Kernel("rms", kernels.add_rms, {**norms, "normed": "*bf16", "epsilon": "fp32"}, constants, warps=8)
    types = {"qkv": "*bf16", "pool": "*bf16", "positions": "*i32", "slots": "*i32", "angles": "*fp32", **_strides()}
    yield Kernel("rotate_and_keep", kernels.rotate_and_keep, types, _LAYER, warps=2)


def _attend(shape: Tiling, *, windowed: bool, direct: bool) -> Kernel:
    integers = ("entries", "programs", "positions", "row_starts")
    types = {
        **dict.fromkeys(("qkv", "pool", "out"), "*bf16"),
        **dict.fromkeys(integers, "*i32"),
        **dict.fromkeys(("numerators", "denominators"), "*fp32"),
        **dict.fromkeys(("tokens", "splits", "window"), "i32"),
        **dict.fromkeys(("slope", "height"), "fp32"),
        **_strides(),
    }
    constants = {**_LAYER, "block": shape.block, "tile": shape.tile, "windowed": windowed, "direct": direct}
    name = f"attend {shape.block}x{shape.tile}{' window' if windowed else ''}{' direct' if direct else ''}"
    return Kernel(name, attention.attend, types, constants, shape.warps, shape.stages)


def _merge(shape: Tiling, *, fp8: bool) -> Kernel:
    part = _LAYER["heads"] if fp8 else 1
    types = {"rows": "*i32", "out": "*fp8e4nv" if fp8 else "*bf16", **dict.fromkeys(("numerators", "denominators", "scales"), "*fp32")}
    constants = {**_LAYER, "block": shape.block, "splits": shape.splits, "part": part, "gather": True, "fp8": fp8}
    loaded = shape.splits * part * _LAYER["shared"] * _LAYER["size"]
    return Kernel(f"merge of {shape.splits}{' fp8' if fp8 else ''}", attention.merge, types, constants, min(16, max(1, loaded // 2048)))


def _exp_sums(block: int) -> Kernel:
    types = {**dict.fromkeys(("states", "words"), "*bf16"), "sums": "*fp32", "reads": "i32", "count": "i32", "cap": "fp32"}
    constants = {"width": _WIDTH, "block": block, "tile": 128, "step": 128 if block <= 32 else 64}
    return Kernel(f"exp_sums of {block} rows", vocabulary.exp_sums, types, constants, 8 if block > 64 else 4, stages=3)


def _strides() -> dict[str, str]:
    return {"value_stride": "i64", "head_stride": "i64"}
