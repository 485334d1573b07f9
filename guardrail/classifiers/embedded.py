"""The embedded classifier: concurrent callers share passes of a small policy-reading model on the CPU."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import torch

from guardrail.calibration import Calibration, read_beside, suffix
from guardrail.engine.embedded.fast import FastReader
from guardrail.engine.embedded.plain import PlainReader
from guardrail.engine.embedded.scorer import Found, Scorer
from guardrail.engine.embedded.weights import load
from guardrail.errors import ClassifierError
from guardrail.interfaces import Workload
from guardrail.types import ClassifyRequest, Policy, Score

SHIPPED = Path(__file__).parent.parent / "models" / "embedded.safetensors"
MOST_ACTIVE = 64  # callers that share passes
MOST_WAITING = 4_194_304  # characters of all callers; a further one is told that the classifier is overloaded
MOST_CHARACTERS = 262_144  # of one text; a longer one is an error, never a truncated guess

logger = logging.getLogger("guardrail")

Answer = Score | ClassifierError
Precision = Literal["auto", "float32", "bfloat16"]


class _Call:
    """One caller: what it asked, what is refused of it at once, and the reading of the rest."""

    def __init__(self, requests: Sequence[ClassifyRequest], deadline: float, scorer: Scorer) -> None:
        self.deadline = deadline
        self.size = sum(len(text) for text in {request.text for request in requests})
        self.answer: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()
        self.refused = [_refusal(request, scorer) for request in requests]
        asked = zip(requests, self.refused, strict=True)
        self.reading = scorer.begin([(request.text, request.policy) for request, refused in asked if refused is None])

    def settle(self, answer: list[Answer] | ClassifierError) -> None:
        """Tell the caller, if it still waits."""
        if self.answer.done():
            return
        if isinstance(answer, ClassifierError):
            self.answer.set_exception(answer)
        else:
            self.answer.set_result(answer)


class EmbeddedClassifier:
    """Scores with the weights of one file, on one worker thread; tokenising and the model run off the event loop.

    `calibration`, where there is one, is applied to each probability of the model, and its digest is part of the id.
    """

    def __init__(self, scorer: Scorer, *, name: str, calibration: Calibration | None = None, threads: int = 1) -> None:
        self._scorer = scorer
        self._calibration = calibration
        self._id = name + suffix(calibration)
        # In the worker itself: a thread that has computed once keeps its number, whatever is set elsewhere later.
        self._worker = ThreadPoolExecutor(
            1, thread_name_prefix="embedded-classifier", initializer=torch.set_num_threads, initargs=(threads,)
        )
        self._waiting: deque[_Call] = deque()
        self._size = 0
        self._calls = 0
        self._passes = 0
        self._running: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    def load(
        cls, path: Path | None = None, *, threads: int = 1, precision: Precision = "auto", reference: bool = False
    ) -> "EmbeddedClassifier":
        """Read the shipped weights or those at `path`; raises ModelFileError when they cannot be used.

        A calibration stored beside them (`NAME.calibration.json`) is read too, and refused when it was fitted on other weights.
        `threads`: processor threads that a pass is spread over. `precision` `auto` computes in bfloat16 where the processor has
        instructions for it (about twice as fast, scores agree to about 1e-2) and in float32 elsewhere. `reference` runs the
        network's own modules, as training does: slower, to measure and test against.
        """
        weights = path or SHIPPED
        loaded = load(weights)
        calibration = read_beside(weights, f"sha256:{loaded.digest}")
        dtype = _dtype(precision)
        name = f"embedded@sha256:{loaded.digest[:16]}:{str(dtype).removeprefix('torch.')}"
        reader = PlainReader if reference else FastReader
        scorer = Scorer(loaded.model, loaded.tokens, loaded.calibration, dtype=dtype, reader=reader)
        return cls(scorer, name=name, calibration=calibration, threads=threads)

    @property
    def id(self) -> str:
        """Name, weights digest and precision, and the digest of a calibration."""
        return self._id

    async def prepare(self, policies: Sequence[Policy]) -> None:
        """Encode the policies' statements; about a tenth of a second each, once for each text."""
        await asyncio.get_running_loop().run_in_executor(self._worker, self._scorer.prepare, tuple(policies))

    async def classify(self, requests: Sequence[ClassifyRequest], *, deadline: float) -> list[Answer]:
        """Scores in order; see `Classifier`. What waits when its deadline passes is not computed any more."""
        if self._closed:
            raise ClassifierError("crash", "the embedded classifier is closed")
        if not requests:
            return []
        call = _Call(requests, deadline, self._scorer)
        if self._size + call.size > MOST_WAITING and self._size:
            raise ClassifierError("overloaded", f"{self._size} characters are waiting already, {MOST_WAITING} may")
        self._size += call.size
        self._calls += 1
        self._waiting.append(call)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        try:
            return await call.answer
        finally:
            self._size -= call.size
            self._calls -= 1

    def workload(self) -> Workload:
        """The calls that are not answered yet."""
        return Workload(calls=self._calls)

    def passes(self) -> int:
        """The passes that were made; see `SupportsProgress`."""
        return self._passes

    async def aclose(self) -> None:
        """Fail who waits, let the pass in hand end, free the thread."""
        self._closed = True
        closed = ClassifierError("crash", "the embedded classifier was closed")
        for call in self._waiting:
            call.settle(closed)
        if self._running is not None:
            await asyncio.wait({self._running})
        self._worker.shutdown(wait=True)

    async def _run(self) -> None:
        """Schedule, run one short pass, settle, until nobody waits. Who has gone or is late leaves before the next pass."""
        loop = asyncio.get_running_loop()
        active: list[_Call] = []
        while active or self._waiting:
            while self._waiting and len(active) < MOST_ACTIVE:
                active.append(self._waiting.popleft())
            active = [call for call in active if self._wanted(call)]
            if not active:
                continue
            try:
                await loop.run_in_executor(self._worker, self._scorer.advance, [call.reading for call in active])
            except Exception as error:  # border: whatever broke in there, every waiter is told at once and the loop lives on
                logger.exception("the embedded classifier failed on %d calls", len(active))
                for call in active:
                    call.settle(ClassifierError("crash", f"the embedded model failed: {type(error).__name__}"))
                continue
            self._passes += 1
            for call in active:
                if call.reading.finished:
                    call.settle(self._answers(call))

    def _wanted(self, call: _Call) -> bool:
        if not call.answer.done() and call.deadline <= time.monotonic():
            call.settle(ClassifierError("timeout", "the deadline passed before the embedded model had read everything"))
        return not call.answer.done()

    def _answers(self, call: _Call) -> list[Answer]:
        found = iter(self._scorer.answers(call.reading))
        return [self._scored(next(found)) if refused is None else refused for refused in call.refused]

    def _scored(self, found: Found) -> Answer:
        if not math.isfinite(found.value):
            return ClassifierError("not_a_number", "the embedded model gave no number")
        value = found.value if self._calibration is None else self._calibration.apply(found.value)
        return Score(value, self._id, span=found.span)


def open_weights(options: Mapping[str, str]) -> EmbeddedClassifier:
    """For a configuration's `kind: custom`; `options` hold `file`: other weights than the shipped ones. Raises ModelFileError as `load`."""
    return EmbeddedClassifier.load(Path(options["file"]))


def _refusal(request: ClassifyRequest, scorer: Scorer) -> ClassifierError | None:
    if len(request.text) > MOST_CHARACTERS:
        return ClassifierError("too_long", f"{len(request.text)} characters, the embedded model reads {MOST_CHARACTERS} at most")
    if not scorer.is_resident(request.policy):
        return ClassifierError("not_prepared", f"policy {request.policy.id} {request.policy.version} was not prepared")
    return None


def _dtype(precision: Precision) -> torch.dtype:
    if precision == "auto":
        return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32  # noqa: SLF001  (torch has no public name for it)
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
