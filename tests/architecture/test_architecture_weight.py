"""What an import loads is a promise: nobody waits for torch who did not ask for it."""

import json
import subprocess
import sys

import pytest
from architecture_source import ROOT

REPORT = """
import sys
before = set(sys.modules)
{code}
import json
print(json.dumps(sorted(set(sys.modules) - before)))
"""
HEAVY = {"torch", "transformers", "sentence_transformers", "litellm", "openai", "ray", "sklearn", "scipy", "opentelemetry.sdk"}


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh interpreter loads for it."""
    run = subprocess.run([sys.executable, "-c", REPORT.format(code=code)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return set(json.loads(run.stdout.splitlines()[-1]))


def foreign(modules: set[str]) -> set[str]:
    """Their packages, without the standard library's."""
    return {name.split(".")[0] for name in modules} - set(sys.stdlib_module_names)


def test_the_package_itself_needs_the_standard_library_alone():
    assert foreign(loaded_by("import guardrail")) == {"guardrail"}


def test_help_needs_click_alone():
    code = "import contextlib, guardrail.cli\nwith contextlib.suppress(SystemExit): guardrail.cli.main(['--help'])"
    assert foreign(loaded_by(code)) == {"guardrail", "click"}


@pytest.mark.parametrize(
    "module", ["guardrail.assembly", "guardrail.asgi", "guardrail.guard", "guardrail.testing", "guardrail.policy.registry"]
)
def test_what_is_not_used_is_not_loaded(module: str):
    loaded = loaded_by(f"import {module}")
    assert module in loaded
    assert loaded & HEAVY == set()
