"""The command line, as a process where that matters and in this one where it does not."""

import base64
import json
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from guardrail.cli import COMMANDS, commands, main
from guardrail.errors import ConfigError, Finding, GuardrailError
from guardrail.policy.registry import shipped_folder
from guardrail.testing import ScriptedClassifier, contains

ROOT = Path(__file__).resolve().parents[2]

CONFIG = """
classifiers:
  scripted: {kind: custom, factory: "scripted_for_tests:make"}
"""
FACTORY = """
from guardrail.testing import ScriptedClassifier, contains

def make(options):
    return ScriptedClassifier({"*": contains("worthless idiot")})
"""


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration with an installed custom classifier that is quick."""
    (tmp_path / "scripted_for_tests.py").write_text(textwrap.dedent(FACTORY))
    (tmp_path / "guardrail.yaml").write_text(CONFIG)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "guardrail.yaml"


def test_help_lists_every_command_and_imports_none_of_them() -> None:
    heavy = ("guardrail.cli.", "torch", "starlette", "aiohttp", "pydantic")
    probe = f"""
import sys
from guardrail.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
print([name for name in sys.modules if name.startswith({heavy!r})])
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT)
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_command_that_cannot_be_imported_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "broken", ("guardrail.cli.no_such_module:x", "Broken."))
    assert CliRunner().invoke(commands, ["--help"]).exit_code == 0
    result = CliRunner().invoke(commands, ["broken"])
    assert (result.exit_code, "guardrail.cli.no_such_module" in result.output) == (2, True)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (GuardrailError("it is closed; open it"), "guardrail: it is closed; open it\n"),
        (
            ConfigError([Finding("a.yaml", 3, "C004", "unknown key"), Finding("a.yaml", 5, "C006", "bad value")]),
            "a.yaml:3: C004 unknown key\na.yaml:5: C006 bad value\n",
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_2(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(commands, "main", fail)
    with pytest.raises(SystemExit) as left:
        main([])
    assert (left.value.code, capsys.readouterr().err) == (2, said)


def test_python_dash_m_works() -> None:
    done = subprocess.run([sys.executable, "-m", "guardrail", "--version"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.startswith("guardrail, version ")


def check(configured: Path, *arguments: str, text: str | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(commands, ["check", "--config", str(configured), *arguments], input=text)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_check_judges_an_answer_with_its_prompt_where_a_policy_asks_and_never_without(configured: Path, tmp_path: Path) -> None:
    written = (ROOT / "policies" / "harassment.md").read_text(encoding="utf-8")
    asking = tmp_path / "asking.md"
    asking.write_text(written.replace("\n---\n", "\njudge_with: prompt\n---\n", 1), encoding="utf-8")
    with pytest.raises(GuardrailError, match="judges answers with the prompt, and none is given"):
        check(configured, "good morning", "--policy", str(asking), "--stage", "output")
    assert check(configured, "good morning", "--policy", str(asking), "--prompt", "Hello!")[0] == 0


def test_check_exits_0_for_clean_and_1_for_a_violation(configured: Path) -> None:
    assert check(configured, "good morning")[0] == 0
    code, said = check(configured, "you worthless idiot", "--policy", "harassment")
    assert (code, said.splitlines()[-1]) == (1, "Violates harassment.")
    assert check(configured, "-", text="you worthless idiot\n")[0] == 1
    assert check(configured, text="good morning\n")[0] == 0


def test_check_says_how_a_disguised_text_was_read(configured: Path) -> None:
    hidden = base64.b64encode(b"you worthless idiot").decode()
    code, said = check(configured, hidden, "--policy", "harassment")
    assert (code, "(read through base64)" in said) == (1, True)
    code, said = check(configured, hidden, "--policy", "harassment", "--json")
    assert json.loads(said)["verdicts"][0]["reading"] == ["base64"]
    assert "worthless" not in said


def test_check_reads_policies_from_files_and_prints_json(configured: Path) -> None:
    code, said = check(
        configured,
        "you worthless idiot",
        "--json",
        "--policy",
        str(shipped_folder() / "violence.md"),
        "--policy",
        "harassment",
        "--stage",
        "output",
    )
    document = json.loads(said)
    assert (code, document["violation"], document["action"]) == (1, True, "block")
    assert [verdict["policy"] for verdict in document["verdicts"]] == ["violence", "harassment"]


def test_check_judges_a_text_as_what_stage_says_it_is(configured: Path, tmp_path: Path) -> None:
    text = (shipped_folder() / "harassment.md").read_text()
    for stage, other in (("input", "output"), ("output", "input")):
        own = tmp_path / f"{stage}.md"
        own.write_text(re.sub(r"(?m)^threshold: .*$", f"threshold: {{{stage}: 0.01, {other}: 1}}", text))
        assert check(configured, "you worthless idiot", "--policy", str(own), "--stage", stage)[0] == 1
        assert check(configured, "you worthless idiot", "--policy", str(own), "--stage", other)[0] == 0


def test_check_exits_2_for_what_cannot_be_judged(configured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["check", "text", "--policy", "no_such"],
        ["check", "text", "--policy", "no/such.md"],
        ["check", "  "],
        ["check", "x", "--stage", "y"],
    ):
        with pytest.raises(SystemExit) as left:
            main([*arguments, *(["--config", str(configured)] if "y" not in arguments else [])])
        assert left.value.code == 2
        assert "Traceback" not in capsys.readouterr().err
    configured.with_name("scripted_for_tests.py").write_text(
        FACTORY.replace('{"*": contains("worthless idiot")}', "fault=RuntimeError('boom')")
    )
    done = subprocess.run(
        [sys.executable, "-m", "guardrail", "check", "text", "--config", str(configured)],
        capture_output=True,
        text=True,
        check=False,
        env=_environment(configured),
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (2, "The text could not be judged.")


def _environment(configured: Path) -> dict[str, str]:
    return {"PYTHONPATH": f"{ROOT}:{configured.parent}", "PATH": "/usr/bin:/bin"}


@contextmanager
def served(configured: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "guardrail", "serve", "--config", str(configured), "--port", str(port), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment(configured))
    try:
        yield process, port
    finally:
        process.kill()
        process.communicate()


def ready(port: int) -> bool:
    for _ in range(300):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
    return False


@pytest.mark.parametrize("workers", [1, 2])
def test_serve_says_what_it_guards_judges_and_ends_on_sigterm(configured: Path, workers: int) -> None:
    with served(configured, "--workers", str(workers)) as (process, port):
        assert ready(port)
        body = json.dumps({"model": "embedded-echo", "messages": [{"role": "user", "content": "you worthless idiot"}]}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", body, {"content-type": "application/json"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        assert refused.value.code == 400
        refused.value.close()
        process.send_signal(signal.SIGTERM)
        said, log = process.communicate(timeout=15)
        assert process.returncode == 0
        assert f"Point your client at http://127.0.0.1:{port}/v1" in said
        assert [json.loads(line)["decision"] for line in log.splitlines() if '"decision_id"' in line] == ["block"]
        assert "idiot" not in log
        assert "Traceback" not in log


def test_serve_without_a_free_port_or_with_a_bad_policy_ends_in_one_sentence(configured: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = subprocess.run(
            [sys.executable, "-m", "guardrail", "serve", "--config", str(configured), "--port", str(taken.getsockname()[1])],
            capture_output=True, text=True, env=_environment(configured), check=False,
        )  # fmt: skip
        assert (done.returncode, "cannot listen on 127.0.0.1" in done.stderr, "Traceback" in done.stderr) == (2, True, False)
    folder = configured.parent / "policies"
    folder.mkdir()
    (folder / "bad.md").write_text("nothing")
    configured.write_text(CONFIG + "policies: {folder: policies}\n")
    done = subprocess.run(
        [sys.executable, "-m", "guardrail", "serve", "--config", str(configured), "--port", "0"],
        capture_output=True,
        text=True,
        check=False,
        env=_environment(configured),
    )
    assert (done.returncode, "bad.md:" in done.stderr, "Traceback" in done.stderr) == (2, True, False)


def test_serve_off_loopback_without_tenants_warns(capsys: pytest.CaptureFixture[str]) -> None:
    from guardrail.cli.serve import _announce
    from guardrail.config.models import Config

    for host, warned in (("0.0.0.0", True), ("127.0.0.1", False), ("::1", False), ("localhost", False)):
        _announce(Config(), host, "http://x:1", 1)
        assert ("Warning" in capsys.readouterr().err) is warned


async def test_the_demo_shows_each_exchange_as_it_must_go_with_a_classifier_that_judges_rightly() -> None:
    from guardrail.cli.demo import PLANS, play, staged

    rules = {"harassment": contains("worthless idiot"), "prompt_attack": contains("ignore all previous"), "*": 0.03}
    async with staged(classifiers={"embedded": ScriptedClassifier(rules)}) as scene:
        seen = [await play(scene, plan) for plan in PLANS]
    assert [exchange.name for exchange in seen if not exchange.expected] == []
    assert [exchange.hits for exchange in seen] == [1, 1, 0, 1, 1, 0, 1]
    assert {exchange.policy for exchange in seen if exchange.violated} == {"harassment", "prompt_attack"}


async def test_the_demo_notices_a_classifier_that_misses() -> None:
    from guardrail.cli.demo import PLANS, play, staged

    async with staged(classifiers={"embedded": ScriptedClassifier()}) as scene:
        seen = [await play(scene, plan) for plan in PLANS]
    assert [exchange.expected for exchange in seen] == [True, True, False, False, False, False, True]


def test_the_demo_runs_once_with_the_embedded_classifier() -> None:
    if not any((ROOT / "guardrail" / "models").glob("*.safetensors")):
        pytest.skip("the embedded classifier's weights are not in this checkout")
    done = subprocess.run(
        [sys.executable, "-m", "guardrail", "demo", "--once", "--json"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    document = json.loads(done.stdout)
    assert [exchange["name"] for exchange in document["exchanges"] if not exchange["expected"]] == []
    assert (done.returncode, document["ok"]) == (0, True)


def test_a_command_whose_extra_is_not_installed_says_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(place: str) -> None:
        raise ModuleNotFoundError(place, name="transformers.utils")

    monkeypatch.setattr("guardrail.cli.importlib.import_module", missing)
    result = CliRunner().invoke(commands, ["model", "info", "somewhere"])
    assert result.exit_code == 2
    assert "which is not installed; run: pip install 'guardrail[cope]'" in result.stderr
