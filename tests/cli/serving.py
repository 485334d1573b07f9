"""A running `guardrail serve` and its processes, for what looks at it from outside."""

import json
import os
import select
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


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
