"""The GPU's benchmark, dry: every section runs on a tiny model under Triton's interpreter. Its times mean nothing there."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = "tests/benchmarks/gpu_engine.py"

if find_spec("triton") is None:
    pytest.skip("triton is not installed (it is on Linux only)", allow_module_level=True)
if np.lib.NumpyVersion(np.__version__) >= "2.4.0":
    pytest.skip(f"Triton's interpreter needs numpy < 2.4, this is {np.__version__}", allow_module_level=True)


def test_every_section_comes_to_its_end_and_finds_the_kernels_right(tmp_path: Path):
    command = [sys.executable, SCRIPT, "--shape", "tiny", "--device", "cpu", "--out", str(tmp_path)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"}
    run = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=400, check=False)

    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads((tmp_path / "gpu_engine.json").read_text(encoding="utf-8"))
    everything = "machine kernels agreement passes serving streams policies cold reload parts cuts skinny products fp8 truth"
    assert list(found) == everything.split()
    assert all(row[-1] is True for row in found["kernels"]["tables"][0]["rows"])
    answers = {row[0]: row[1] for row in found["agreement"]["tables"][0]["rows"]}
    assert answers["questions"] < 1e-4
    assert answers["the same questions again"] == 0
    assert "| tokens |" in (tmp_path / "gpu_engine.md").read_text(encoding="utf-8")
