"""`guardrail serve --workers N`: the workers are one server, outlive one another, and do not outlive who started them."""

import json
import os
import select
import shutil
import signal
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

from guardrail.policy.registry import shipped_folder

ROOT = Path(__file__).resolve().parents[2]

CONFIG = """
classifiers:
  scripted: {kind: custom, factory: "scripted_for_workers:make"}
"""
FACTORY = """
import multiprocessing
from guardrail.errors import GuardrailError
from guardrail.testing import ScriptedClassifier, contains

def make(options):
    if multiprocessing.parent_process() is not None and REFUSE:
        raise GuardrailError("the scripted classifier is not in the mood")
    return ScriptedClassifier({"*": contains("worthless idiot")})
"""


def configured(folder: Path, *, refuse: bool = False) -> Path:
    (folder / "scripted_for_workers.py").write_text(f"REFUSE = {refuse}\n" + textwrap.dedent(FACTORY))
    (folder / "guardrail.yaml").write_text(CONFIG)
    return folder / "guardrail.yaml"


class Served:
    """A running `guardrail serve`; its base URL is what it announced."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []
        self.url = self._announced()

    def _announced(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            if line.startswith("Point your client at "):
                return line.split()[4].removesuffix("/v1")
        raise AssertionError(f"it ended: {self.process.stderr.read() if self.process.stderr else ''}")

    def judged(self, text: str) -> int:
        """The status of one exchange."""
        body = json.dumps({"model": "embedded-echo", "messages": [{"role": "user", "content": text}]}).encode()
        request = urllib.request.Request(f"{self.url}/v1/chat/completions", body, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def ready(self) -> dict[str, object]:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=30) as response:
                document = json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                document = json.load(error)
        assert isinstance(document, dict)
        return document

    def children(self, what: str = "spawn_main") -> set[int]:
        """Processes that it started, by a word of their command line."""
        found = set()
        for place in Path("/proc").glob("[0-9]*"):
            try:
                parent = int(place.joinpath("stat").read_text().rpartition(")")[2].split()[1])
                command = place.joinpath("cmdline").read_bytes().decode()
            except (OSError, ValueError):
                continue
            if parent == self.process.pid and what in command:
                found.add(int(place.name))
        return found

    def stopped(self) -> str:
        """End it as an init system does; its log."""
        self.process.send_signal(signal.SIGTERM)
        _, log = self.process.communicate(timeout=30)
        assert self.process.returncode == 0
        return log


@contextmanager
def served(config: Path, workers: int) -> Iterator[Served]:
    command = [sys.executable, "-m", "guardrail", "serve", "--config", str(config), "--port", "0", "--workers", str(workers)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{config.parent}"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        yield Served(process)
    finally:
        process.kill()
        process.communicate()


def ended(process: int) -> bool:
    """Whether a process ends within 30 seconds."""
    try:
        handle = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], 30)[0])
    finally:
        os.close(handle)


def test_a_worker_that_dies_is_replaced_and_the_others_serve_meanwhile(tmp_path: Path) -> None:
    with served(configured(tmp_path), workers=2) as server:
        first = server.children()
        assert len(first) == 2
        killed = min(first)
        os.kill(killed, signal.SIGKILL)
        assert ended(killed)
        assert [server.judged(text) for text in ("good morning", "you worthless idiot")] == [200, 400]
        until = time.monotonic() + 30
        while len(server.children()) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        assert len(server.children() - first) == 1
        assert server.judged("you worthless idiot") == 400
        everyone = server.children()
        log = [json.loads(line) for line in server.stopped().splitlines()]
        assert f"worker process {killed} ended (exit code -9); the next one starts in 0.5 s" in [line["event"] for line in log]
        assert all(ended(process) for process in everyone)


def test_workers_with_the_embedded_classifier_judge_and_end_with_who_started_them(tmp_path: Path) -> None:
    if not any((ROOT / "guardrail" / "models").glob("*.safetensors")):
        pytest.skip("the embedded classifier's weights are not in this checkout")
    config = tmp_path / "guardrail.yaml"
    config.write_text("policies: {shipped: false, folder: policies}\n")
    (tmp_path / "policies").mkdir()
    shutil.copy(shipped_folder() / "toxicity.md", tmp_path / "policies")
    with served(config, workers=2) as server:
        assert server.ready()["ready"] is True
        assert [server.judged(text) for text in ("good morning", "You are a worthless idiot, and everybody despises you.")] == [200, 400]
        workers = server.children()
        server.process.kill()
        assert all(ended(process) for process in workers)


def test_where_no_worker_can_start_nothing_is_left_running_and_it_says_why(tmp_path: Path) -> None:
    config = configured(tmp_path, refuse=True)
    with pytest.raises(AssertionError) as left, served(config, workers=2):
        pass
    assert "the scripted classifier is not in the mood" in str(left.value)
    assert "a worker process ended before it took requests" in str(left.value)
    assert "Traceback" not in str(left.value)
