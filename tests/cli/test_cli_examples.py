"""Each example runs as it stands."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from fastapi.testclient import TestClient

from guardrail import assembly
from guardrail.asgi.service import GuardService
from guardrail.testing import ScriptedClassifier, contains

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RULES = {"toxicity": contains("worthless idiot")}


def run(source: str, name: str) -> ModuleType:
    module = ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
    return module


def test_the_fastapi_app_answers_and_guards_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = assembly.open_guard

    def open_scripted() -> GuardService:
        return opened(classifiers={"embedded": ScriptedClassifier(RULES)})

    monkeypatch.setattr(assembly, "open_guard", open_scripted)
    module = run((EXAMPLES / "middleware_fastapi.py").read_text(), "middleware_fastapi")
    with TestClient(module.app) as client:

        def ask(text: str) -> object:
            return client.post("/v1/chat/completions", json={"model": "parrot", "messages": [{"role": "user", "content": text}]})

        assert ask("Hello").json()["choices"][0]["message"]["content"] == "You said: Hello"  # type: ignore[attr-defined]
        assert ask("you worthless idiot").status_code == 400  # type: ignore[attr-defined]


def test_the_openai_client_tells_the_three_outcomes_apart(capsys: pytest.CaptureFixture[str], proxy_url: str) -> None:
    module = run((EXAMPLES / "openai_client.py").read_text(), "openai_client")
    module.main(proxy_url)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("allow: Hello!")
    assert said[1] == "blocked before the model was asked: Request blocked by content policy."
    assert said[2] == "the answer was withheld: This answer was withheld by content policy."
    assert said[3].startswith("You are welcome")


def test_the_custom_classifier_judges_and_tells_its_known_pair_apart() -> None:
    done = subprocess.run(
        [sys.executable, "custom_classifier.py"],
        capture_output=True,
        text=True,
        cwd=EXAMPLES,
        check=True,
        env={"PYTHONPATH": str(EXAMPLES.parent)},
    )
    assert done.stdout.splitlines() == [
        "What a lovely morning. -> pass",
        "Only an idiot would say so. -> block toxicity 0.9 (the word 'idiot')",
    ]
    assert done.stderr == ""
