"""What an engine's process is told on its standard input, and what it says of itself on its standard output: JSON, a line each.

Orders come as the first line; then the pipe stays open for as long as the engine is wanted, so that it ends with whoever started it.
"""

import contextlib
import json
import os
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from guardrail.engine.cope.process.records import document, record
from guardrail.engine.cope.process.wire import FrameError
from guardrail.engine.cope.settings import EngineSettings
from guardrail.errors import GuardrailError

MOST_BYTES = 1 << 20
LONGEST_SENTENCE = 600  # characters, of up to 6 bytes each: a pipe takes up to 4096 bytes whole or not at all


@dataclass(frozen=True, slots=True)
class Orders:
    """`name` is the classifier's, for the log; `socket` is where clients find the engine."""

    name: str
    socket: str
    settings: EngineSettings
    log_level: str = "info"


@dataclass(frozen=True, slots=True)
class Report:
    """`loading`, `ready` and `beat` come regularly; `failed` says in `sentence` why there will be no engine, and is the last.

    `alive` and `age_s` are of the engine's own loop, not of the process.
    """

    state: Literal["loading", "ready", "beat", "failed"]
    alive: bool = True
    age_s: float = 0.0
    sentence: str = ""


def orders_line(orders: Orders) -> bytes:
    """What `read_orders` reads."""
    return json.dumps(document(orders, without=("settings",)) | {"settings": document(orders.settings)}).encode() + b"\n"


def read_orders(stream: BinaryIO) -> Orders:
    """The first line. Raises GuardrailError when it holds no orders."""
    try:
        said: dict[str, Any] = json.loads(stream.readline(MOST_BYTES))
        return record(Orders, said, settings=record(EngineSettings, said.pop("settings")))
    except (ValueError, TypeError, AttributeError, KeyError, FrameError) as error:
        raise GuardrailError(f"no orders for an engine on standard input ({error}); it is started by `guardrail serve`") from error


def report_of(line: bytes) -> Report:
    """Raises FrameError for a line that is no report."""
    try:
        return record(Report, json.loads(line))
    except ValueError as error:
        raise FrameError("an engine's process reports in JSON") from error


class Reporter:
    """Takes standard output for reports alone: whatever else is printed in this process goes to standard error."""

    def __init__(self) -> None:
        self._out = os.dup(1)
        os.dup2(2, 1)
        os.set_blocking(self._out, False)

    def say(self, report: Report) -> None:
        """Never waits: a report that nobody takes is left out, and whoever reads none for long enough acts on that."""
        line = json.dumps(document(report), separators=(",", ":")).encode() + b"\n"
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._out, line)
