"""README.md is run: what it shows works, and what there is it mentions. See readme_blocks.py for how a block says what it is."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from readme_blocks import README, Block, parse, prints

from guardrail.cli import commands

ROOT = README.parent
LANGUAGES = {"bash", "python", "yaml", "json", "markdown", "text", "mermaid"}
SERVES = re.compile(r"^guardrail (?:serve|demo(?!.*--once))\b.*\n\Z", re.MULTILINE)
ADDRESS = re.compile(r"(?:localhost|127\.0\.0\.1):8080")
SAYS_READY = re.compile(r"http://127\.0\.0\.1:(\d+)/v1")

TEXT = README.read_text(encoding="utf-8")
BLOCKS = parse(TEXT)


def of(*languages: str) -> list[Block]:
    """The blocks that are run: those of a language, without the set-up lines."""
    return [block for block in BLOCKS if block.language in languages and "set-up" not in block.markers]


class Place:
    """A folder with the repository's documents, README's own files, and a `guardrail` and a `python` on its path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        tools = folder / "bin"
        tools.mkdir()
        for name, command in {"guardrail": f"{sys.executable} -m guardrail", "python": sys.executable}.items():
            (tools / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            (tools / name).chmod(0o755)
        for name in ("policies", "examples"):
            shutil.copytree(ROOT / name, self.folder / name)
        for block in BLOCKS:
            if name := block.markers.get("file"):
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).write_text(block.text)
        kept = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY") and not name.startswith("OTEL_")}
        self.environment = kept | {
            "PATH": f"{tools}:{kept['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OPENAI_API_KEY": "example",
            "ANTHROPIC_API_KEY": "example",
            "COLUMNS": "200",
        }

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=120, check=False)

    def start(self, script: str) -> subprocess.Popen[str]:
        bash = ["bash", "-euo", "pipefail", "-c", script]
        return subprocess.Popen(bash, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("readme"))


@pytest.fixture(scope="module")
def address(place: Place) -> Iterator[str]:
    """Where a proxy with the defaults runs."""
    process = place.start("exec guardrail serve --port 0")
    port, _ = until_ready(process)
    yield f"127.0.0.1:{port}"
    assert stopped(process) == 0


def until_ready(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The port that a starting server names, and what it has said until then."""
    said, until = "", time.monotonic() + 120
    assert process.stdout is not None
    while time.monotonic() < until and (line := process.stdout.readline()):
        said += line
        if found := SAYS_READY.search(line):
            return int(found[1]), said
    process.kill()
    pytest.fail(f"it did not say where it listens:\n{said}")


def stopped(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    return process.returncode


def placed(block: Block, request: pytest.FixtureRequest) -> str:
    """The block's text, pointed at a running proxy where it speaks of one."""
    return ADDRESS.sub(request.getfixturevalue("address"), block.text) if ADDRESS.search(block.text) else block.text


@pytest.mark.parametrize("block", of("bash"), ids=str)
def test_a_command_does_what_is_said(block: Block, place: Place, request: pytest.FixtureRequest):
    if SERVES.search(block.text):  # its last command goes on until it is stopped
        process = place.start(SERVES.sub(lambda found: f"exec {found[0].rstrip()} --port 0", block.text))
        _, said = until_ready(process)
        status = stopped(process)
    else:
        run = place.run("bash", "-euo", "pipefail", "-c", placed(block, request))
        said, status = run.stdout + run.stderr, run.returncode

    assert status == block.exit, said
    assert prints(block.output, said), said


@pytest.mark.parametrize("block", of("python"), ids=str)
def test_an_example_runs(block: Block, place: Place, request: pytest.FixtureRequest):
    run = place.run(sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", placed(block, request))

    assert run.returncode == 0, run.stdout + run.stderr
    assert prints(block.output, run.stdout), run.stdout + run.stderr


@pytest.mark.parametrize(
    "block", [block for block in of("yaml", "markdown") if block.language == "yaml" or block.text.startswith("---")], ids=str
)
def test_a_document_can_be_used(block: Block, place: Place):
    """A configuration, or a policy with its front matter."""
    kind, ending = (["config", "check"], "yaml") if block.language == "yaml" else (["policy", "lint"], "md")
    file = place.folder / block.markers.get("file", f"line_{block.line}.{ending}")
    file.write_text(block.text)

    run = place.run("guardrail", *kind, str(file))

    assert run.returncode == block.exit, run.stdout + run.stderr
    assert prints(block.output, run.stdout), run.stdout


def test_no_block_escapes():
    """Every block says what it is, in a word that the tests above know."""
    assert [str(block) for block in BLOCKS if block.language not in LANGUAGES] == []
    assert [str(block) for block in BLOCKS if "output" in block.markers and block.language != "text"] == []


def test_the_set_up_lines_are_one_line_each_and_complete():
    lines = {block.markers["set-up"]: block.text.splitlines() for block in BLOCKS if "set-up" in block.markers}

    assert set(lines) == {"run", "test"}
    assert all(len(found) == 1 and found[0].startswith("python3.11 -m venv") for found in lines.values())
    assert lines["run"][0].endswith("guardrail demo")
    assert lines["test"][0].endswith("-m pytest")


def paths(group: click.Group, before: str) -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from paths(command, f"{before} {name}")
        else:
            yield f"{before} {name}"


def mentioned() -> set[str]:
    """The commands of README's table: "| `guardrail policy` | `new`, `lint` … |" are two."""
    found: set[str] = set()
    for group, does in re.findall(r"^\| `(guardrail \w+)` \| (.*) \|$", TEXT, re.MULTILINE):
        inner = re.match(r"(?:`[a-z-]+`(?:, | and )?)+", does)
        found |= {f"{group} {name}" for name in re.findall(r"`([a-z-]+)`", inner[0])} if inner else {group}
    return found


def test_the_table_of_commands_names_all_of_them_and_no_other():
    assert mentioned() == set(paths(commands, "guardrail"))


def test_links_to_files_lead_somewhere():
    targets = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", TEXT)

    assert [target for target in targets if not (ROOT / target).exists()] == []
