"""`guardrail serve --workers N`: the workers are one server, outlive one another, and do not outlive who started them."""

import json
import os
import re
import shutil
import signal
import textwrap
import time
from pathlib import Path

import httpx
import pytest
from serving import ROOT, ended, served

from guardrail.config import hash_key
from guardrail.console.sessions import COOKIE
from guardrail.policy.registry import shipped_folder

ADMIN = "admin-key-of-the-tests"
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


def test_who_signs_out_of_the_console_is_out_of_it_at_every_worker(tmp_path: Path) -> None:
    config = configured(tmp_path)
    config.write_text(f"{CONFIG}\nconsole: {{admin_key: '{hash_key(ADMIN)}'}}\n")
    with served(config, workers=2) as server, httpx.Client(base_url=server.url) as client:
        assert client.post("/console/login", data={"key": ADMIN}, headers={"origin": server.url}).status_code == 303
        kept = {"cookie": f"{COOKIE}={client.cookies[COOKIE]}"}
        token = re.search(r'name="token" value="([^"]+)"', client.get("/console/health").text)
        assert token is not None
        assert {httpx.get(f"{server.url}/console/health", headers=kept).status_code for _ in range(12)} == {200}
        assert client.post("/console/logout", data={"token": token[1]}, headers={"origin": server.url}).status_code == 303
        assert {httpx.get(f"{server.url}/console/health", headers=kept).status_code for _ in range(12)} == {303}  # whoever answers


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
