"""What is done when a pass fails: find the row at fault, or find that it is the engine."""

import gc
import logging
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TypeVar

import torch

from guardrail.engine.cope.kv import OutOfPages

_HOPELESS = 16  # passes that failed, and none that did not, until no further half is tried

logger = logging.getLogger("guardrail.engine")

R = TypeVar("R")
T = TypeVar("T")


class EngineFault(Exception):  # noqa: N818  (the whole engine's end, not one question's error)
    """The engine cannot go on."""


class Fault(Enum):
    """Whose fault an exception is: `ROW` of something in the pass, `PAGES` of a pool that is full, `MEMORY` of the device's or the
    host's memory, `DEVICE` of a device that answers nothing any more.
    """

    ROW = "row"
    PAGES = "pages"
    MEMORY = "memory"
    DEVICE = "device"


def fault_of(error: Exception) -> Fault:
    """A CUDA error is sticky: every later call of the process fails, too."""
    if isinstance(error, OutOfPages):
        return Fault.PAGES
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return Fault.MEMORY
    said = str(error)
    if isinstance(error, torch.AcceleratorError) or (isinstance(error, RuntimeError) and ("CUDA" in said or "CUBLAS" in said)):
        return Fault.DEVICE
    return Fault.ROW


class Isolation:
    """Runs a pass; when it fails, its halves, and theirs, until every row has a result or an error of its own.

    Memory that runs out is tried again once, with what can be freed freed; running out again before a whole pass has succeeded is the
    end, as is any fault of the device. A pass of which nothing succeeds is given up after a few halves.
    """

    def __init__(self) -> None:
        self._out_of_memory = False

    def run(self, run: Callable[[Sequence[R]], Sequence[T]], rows: Sequence[R]) -> list[T | Exception]:
        """One entry a row, in order. Raises EngineFault."""
        found: list[T | Exception] = [RuntimeError("the pass was given up")] * len(rows)
        waiting = deque([range(len(rows))])  # wider ones first: where only some rows are at fault, something succeeds soon
        succeeded = failed = 0
        while waiting:
            places = waiting.popleft()
            result = self._attempt(run, [rows[place] for place in places])
            if not isinstance(result, Exception):
                succeeded += 1
                for place, one in zip(places, result, strict=True):
                    found[place] = one
                continue
            failed += 1
            again = fault_of(result) is Fault.MEMORY and len(places) == 1
            if again:
                waiting.append(places)
            elif len(places) > 1 and (succeeded or failed < _HOPELESS):
                middle = len(places) // 2
                waiting += [places[:middle], places[middle:]]
            else:
                for place in places:
                    found[place] = result
        self._out_of_memory = self._out_of_memory and failed > 0
        return found

    def _attempt(self, run: Callable[[Sequence[R]], Sequence[T]], rows: Sequence[R]) -> Sequence[T] | Exception:
        try:
            return run(rows)
        except Exception as error:  # border: whatever a pass raises is some row's error, or the engine's end; nobody is left waiting
            fault = fault_of(error)
            if fault is Fault.PAGES:
                return error
            logger.warning("a pass of %d rows failed: %s: %s", len(rows), type(error).__name__, error)
            if fault is Fault.DEVICE:
                raise EngineFault(f"the device failed: {error}") from error
            if fault is Fault.MEMORY:
                if self._out_of_memory:
                    raise EngineFault("memory ran out twice in succession; lower kv_bytes or batch_tokens") from error
                self._out_of_memory = True
                _free()
            return error


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
