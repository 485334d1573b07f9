"""The GPU's training benchmark, dry: every lane runs on a tiny model on the CPU. Its times mean nothing there."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_lane_comes_to_its_end_and_learns(tmp_path: Path):
    command = [
        sys.executable,
        "tests/benchmarks/gpu_train.py",
        "--shape",
        "tiny",
        "--device",
        "cpu",
        "--steps",
        "6",
        "--out",
        str(tmp_path),
    ]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=200, check=False)

    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads((tmp_path / "gpu_train.json").read_text(encoding="utf-8"))
    assert json.loads(run.stdout) == found
    assert found["packed_against_alone"] < 1e-3
    lanes = found["lanes"]
    assert list(lanes) == ["shared", "whole", "longest"]
    assert lanes["shared"]["prompt_tokens_per_s"] > 2 * lanes["shared"]["tokens_per_s"]
    assert lanes["whole"]["prompt_tokens_per_s"] == lanes["whole"]["tokens_per_s"]
    assert lanes["longest"]["loss_last"] < lanes["longest"]["loss_first"]
    for lane in lanes.values():
        assert min(lane["tokens_per_s"], lane["model_tflops_per_s"] + 1e-9, lane["peak_memory_bytes"]) > 0
        assert lane["mfu"] is None
