"""The GPU's kernels without a GPU: Triton's interpreter runs them on the CPU, in a process of its own.

Triton decides when a kernel is defined whether it will be interpreted, for the whole process. So `interpreted/` is a suite of its own;
it runs once, and each of its tests has a line here.
"""

import ast
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent / "interpreted"
ROOT = Path(__file__).parents[2]

if find_spec("triton") is None:
    pytest.skip("triton is not installed (it is on Linux only): nothing to interpret", allow_module_level=True)
if np.lib.NumpyVersion(np.__version__) >= "2.4.0":
    pytest.skip(f"Triton's interpreter needs numpy < 2.4, this is {np.__version__}", allow_module_level=True)


def names() -> list[str]:
    """Every test of the suite, read from its source."""
    found = []
    for path in sorted(HERE.glob("check_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [f"{path.stem}.{node.name}" for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    return found


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[str]], str]:
    """What became of each test (one entry a parameter set, empty where it passed), and what the suite printed."""
    report = tmp_path_factory.mktemp("interpreted") / "report.xml"
    command = [sys.executable, "-m", "pytest", str(HERE), "-o", "python_files=check_*.py", "-p", "no:cacheprovider", f"--junitxml={report}"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert report.exists(), run.stdout + run.stderr
    outcomes: dict[str, list[str]] = {}
    for case in ET.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}.{case.get('name', '').partition('[')[0]}"
        outcomes.setdefault(name, []).append("\n".join(f"{found.tag}: {found.text}" for found in case if found.tag in ("failure", "error")))
    return outcomes, run.stdout + run.stderr


@pytest.mark.parametrize("name", names())
def test_interpreted(suite: tuple[dict[str, list[str]], str], name: str):
    outcomes, printed = suite
    assert name in outcomes, printed
    assert "".join(outcomes[name]) == ""
