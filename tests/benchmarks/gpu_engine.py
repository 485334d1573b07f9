"""Everything about the engine that only a GPU can show, in one run of at most about nine minutes on an H100.

    PYTHONPATH=. python3 tests/benchmarks/gpu_engine.py --shape gemma-2-9b --out results

Needs torch with CUDA, triton, transformers and numpy, and about 70 GiB of GPU memory; nothing is downloaded: weights are random, made on
the device. Sections run in order of worth; one that fails is noted and the rest go on. Results are written after each, as
`gpu_engine.json` and `gpu_engine.md`. A dry run without a GPU, whose times mean nothing:

    TRITON_INTERPRET=1 PYTHONPATH=. python3 tests/benchmarks/gpu_engine.py --shape tiny --device cpu --out /tmp/dry
"""

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from gpu import correct, passes, serving, skinny
from gpu.bench import TINY, Bench, Sizes, Table

SECTIONS: dict[str, Callable[[Bench], list[Table]]] = {
    "machine": passes.machine,
    "kernels": correct.kernels,
    "agreement": correct.agreement,
    "passes": passes.passes,
    "serving": serving.serving,
    "streams": serving.streams,
    "policies": serving.many_policies,
    "cold": serving.cold,
    "reload": serving.reload,
    "parts": passes.parts,
    "cuts": passes.cuts,
    "skinny": skinny.skinny,
    "products": passes.products,
    "fp8": serving.fp8,
    "truth": correct.truth,
}
LEAST_LEFT = 15  # seconds; a section is not begun with less


def main() -> int:
    """Exit status 0 when every chosen section came to its end."""
    arguments = parsed()
    torch.set_num_threads(1)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("torch sees no GPU; for a dry run on the CPU see the top of this file", file=sys.stderr)
        return 2
    if arguments.device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        print("without a GPU the kernels need Triton's interpreter: set TRITON_INTERPRET=1", file=sys.stderr)
        return 2
    began = time.monotonic()
    sizes = TINY if arguments.device == "cpu" else Sizes()
    bench = Bench(arguments.shape, arguments.device, sizes, out=arguments.out, minutes=arguments.minutes)
    bench.sync()
    print(f"model made in {time.monotonic() - began:.1f} s", flush=True)
    for name in arguments.sections or SECTIONS:
        run(bench, name)
    failed = [name for name, section in bench.found.items() if "failed" in section]
    print(f"{time.monotonic() - began:.0f} s in all; failed: {', '.join(failed) or 'none'}; results in {arguments.out}")
    return 1 if failed else 0


def run(bench: Bench, name: str) -> None:
    """One section; whatever it raises is a result."""
    began = time.monotonic()
    if bench.left < LEAST_LEFT:
        bench.fail(name, "no time was left")
        return
    try:
        tables = SECTIONS[name](bench)
    except Exception as why:
        traceback.print_exc()
        bench.fail(name, repr(why)[:1000])
        return
    bench.keep(name, tables, time.monotonic() - began)
    print(f"\n{name}: {time.monotonic() - began:.1f} s, {bench.left:.0f} s left")
    for table in tables:
        print(table, flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shape", default="gemma-2-9b")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--sections", nargs="*", choices=list(SECTIONS), help="only these, in this order")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
