"""The kernels compiled for an H100 by the toolchain that Triton brings along: no GPU is needed to see what they take."""

import pytest

pytest.importorskip("triton", reason="triton is not installed (it is on Linux only): nothing to compile")
pytest.importorskip("triton.backends.nvidia", reason="this triton has no NVIDIA toolchain")

from guardrail.engine.cope.cuda.resources import Kernel, compiled, gemma_2_9b

EVERY = {kernel.name: kernel for kernel in gemma_2_9b()}
# A kernel without a window is the one with it, less a comparison; `merge`s differ in how many they add. One of each is enough here.
LEFT_OUT = ("attend 32x64", "attend 64x32", "attend 64x32 direct", "merge of 2", "merge of 1", "add_rms bf16 of some rows", "add_rms fp8")
CHOSEN = [name for name in EVERY if name not in LEFT_OUT]
PRODUCTS = [name for name in EVERY if name.startswith(("attend", "exp_sums of 128"))]
SHARED_MEMORY = 227 * 1024  # what a program may take on an H100


@pytest.mark.parametrize("name", CHOSEN)
def test_a_kernel_fits_an_h100_without_spilling(name: str):
    found = compiled(EVERY[name])
    print(found)
    assert found.spilled == 0
    assert found.registers <= 255
    assert found.shared <= SHARED_MEMORY
    assert not found.doubles
    assert found.wgmma == (name in PRODUCTS)


def test_the_check_sees_arithmetic_that_became_fp64():
    import triton
    import triton.language as tl

    @triton.jit
    def widened(out, count: tl.constexpr):
        place = out + tl.arange(0, count)
        tl.store(place, tl.sqrt(tl.load(place).to(tl.float64)))

    assert compiled(Kernel("widened", widened, {"out": "*fp32"}, {"count": 32}, warps=1)).doubles
