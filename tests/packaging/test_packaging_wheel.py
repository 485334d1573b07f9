"""The wheel is the whole product: policies, weights and licence are in it, and it works where no repository is."""

import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from guardrail import __version__

ROOT = Path(__file__).parents[2]
LARGEST = 60 * 1024 * 1024
POLICIES = {"harassment", "hate_speech", "illegal_activity", "prompt_attack", "self_harm", "sexual_content", "toxicity", "violence"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    (file,) = folder.glob("*.whl")
    assert file.name == f"guardrail-{__version__}-py3-none-any.whl"
    return zipfile.ZipFile(file)


def content(wheel: zipfile.ZipFile, ending: str) -> bytes:
    (name,) = [name for name in wheel.namelist() if name.endswith(ending)]
    return wheel.read(name)


def test_it_holds_the_policies_byte_for_byte(wheel: zipfile.ZipFile):
    shipped = {name: wheel.read(name) for name in wheel.namelist() if name.startswith("guardrail/policies/") and name.endswith(".md")}

    assert set(shipped) == {f"guardrail/policies/{policy}.md" for policy in POLICIES}
    assert all(text == (ROOT / "policies" / Path(name).name).read_bytes() for name, text in shipped.items())


@pytest.mark.parametrize("file", ["models/embedded.safetensors", "models/README.md"])
def test_it_holds_the_weights_and_their_card(wheel: zipfile.ZipFile, file: str):
    assert wheel.read(f"guardrail/{file}") == (ROOT / "guardrail" / file).read_bytes()


def test_it_holds_the_text_that_training_needs(wheel: zipfile.ZipFile):
    folder = ROOT / "guardrail" / "training"
    needed = {str(path.relative_to(ROOT)) for ending in ("*.yaml", "*.jsonl") for path in folder.rglob(ending)}

    assert {"guardrail/training/wordings_areas.yaml", "guardrail/training/own_text/benign_prompts.jsonl"} <= needed
    assert needed <= set(wheel.namelist())


def test_it_holds_nothing_but_the_package(wheel: zipfile.ZipFile):
    kinds = {Path(name).suffix for name in wheel.namelist() if name.startswith("guardrail/")}

    assert {name.split("/")[0] for name in wheel.namelist()} == {"guardrail", f"guardrail-{__version__}.dist-info"}
    assert kinds <= {".py", ".typed", ".md", ".yaml", ".jsonl", ".safetensors", ".html", ".css", ".js", ".svg", ""}
    assert "guardrail/py.typed" in wheel.namelist()


def test_it_is_small_enough_for_a_package_index(wheel: zipfile.ZipFile):
    assert wheel.filename is not None
    assert Path(wheel.filename).stat().st_size < LARGEST


def test_its_metadata_names_licence_and_command(wheel: zipfile.ZipFile):
    metadata = message_from_bytes(content(wheel, ".dist-info/METADATA"))

    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra", [])) == {"cope", "litellm", "parquet", "prometheus", "train", "dev"}
    assert content(wheel, ".dist-info/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert b"guardrail = guardrail.cli:main" in content(wheel, "entry_points.txt")


def test_it_finds_its_policies_where_no_repository_is(wheel: zipfile.ZipFile, tmp_path: Path):
    wheel.extractall(tmp_path / "site")
    code = "import sys; sys.path.insert(0, 'site'); from guardrail.cli import main; main(['policy', 'lint'])"

    run = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert (run.returncode, run.stdout) == (0, ""), run.stderr
    assert "8 policies checked, 0 findings" in run.stderr
