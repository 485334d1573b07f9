"""`guardrail serve --workers 2` with a CoPE classifier: one engine in a process of its own, which both workers ask."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import tiny_checkpoints
from serving import ended, served

from guardrail.policy.registry import shipped_folder

CONFIG = """
policies: {shipped: false, folder: policies}
classifiers:
  cope: {kind: cope, model: MODEL, kv_gib: 0.1, host_gib: 0, most_outside: 1}
routes:
  - {name: main, upstream: main, classifier: cope, deadline_ms: 30000}
cache: {entries: 0}  # else what was judged once is answered without the engine
upstreams: {main: {kind: embedded}}
"""
TEXT = "The library opens at nine."


def configured(folder: Path, model: str) -> Path:
    (folder / "policies").mkdir()
    shutil.copy(shipped_folder() / "toxicity.md", folder / "policies")
    (folder / "guardrail.yaml").write_text(CONFIG.replace("MODEL", model))
    return folder / "guardrail.yaml"


def scores(log: str) -> list[float | None]:
    """Of the prompts, in the order they were judged."""
    decisions = [json.loads(line) for line in log.splitlines() if '"decision_id"' in line]
    return [decision["verdicts"][0]["score"] for decision in decisions if decision["stage"] == "input"]


def test_workers_share_an_engine_that_is_brought_back_and_answers_as_before(tmp_path: Path) -> None:
    config = configured(tmp_path, tiny_checkpoints.tiny_base(tmp_path).name)
    with served(config, workers=2) as server:
        [first] = server.children("engine_process")
        everybody = server.children()
        assert server.judged(TEXT) in (200, 400)
        os.kill(first, signal.SIGKILL)
        assert ended(first)
        assert server.judged(TEXT) == 503
        assert "the engine is down" in json.dumps(server.ready())
        until = time.monotonic() + 120
        while server.judged(TEXT) == 503 and time.monotonic() < until:
            time.sleep(0.2)
        [second] = server.children("engine_process")
        assert second != first
        log = server.stopped()
        assert all(ended(process) for process in {second, *everybody})
    found = scores(log)
    assert found[-1] == pytest.approx(found[0], abs=1e-6)
    assert set(found[1:-1]) == {None}
    assert "the engine of classifier cope was ended by signal 9; the next one starts in 0.5 s" in log
    assert TEXT not in log
