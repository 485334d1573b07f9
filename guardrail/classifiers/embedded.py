"""The embedded classifier: concurrent callers share passes of a small policy-reading model on the CPU."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from guardrail.engine.embedded.scorer import Found, Scorer
from guardrail.engine.embedded.weights import load
from guardrail.errors import ClassifierError
from guardrail.types import ClassifyRequest, Policy, Score

SHIPPED = Path(__file__).parent.parent / "models" / "embedded.safetensors"
CHARACTERS_A_BATCH = 16_384  # callers are joined up to this much text, so that one long text does not hold many short ones
MOST_WAITING = 4_194_304  # characters queued before new callers are told that the classifier is overloaded
MOST_CHARACTERS = 1_048_576  # of one text; a longer one is an error, never a truncated guess

logger = logging.getLogger("guardrail")

Answer = Score | ClassifierError
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class _Call:
    requests: tuple[ClassifyRequest, ...]
    deadline: float
    size: int
    answer: "asyncio.Future[list[Answer]]"


class EmbeddedClassifier:
    """Scores with the weights of one file, on one worker thread; tokenising and the model run off the event loop."""

    def __init__(self, scorer: Scorer, *, name: str) -> None:
        self._scorer = scorer
        self._id = name
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="embedded-classifier")
        self._waiting: deque[_Call] = deque()
        self._waiting_size = 0
        self._running: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    def load(cls, path: Path | None = None, *, threads: int = 1, precision: Precision = "auto") -> "EmbeddedClassifier":
        """Read the shipped weights or those at `path`; raises ModelFileError when they cannot be used.

        `threads`: processor threads of torch, which are shared by the whole process. `precision` `auto` computes in bfloat16 where
        the processor has instructions for it (several times faster, scores agree to about 1e-2) and in float32 elsewhere.
        """
        torch.set_num_threads(threads)
        loaded = load(path or SHIPPED)
        dtype = _dtype(precision)
        name = f"embedded@sha256:{loaded.digest[:16]}:{str(dtype).removeprefix('torch.')}"
        return cls(Scorer(loaded.model, loaded.tokens, loaded.calibration, dtype=dtype), name=name)

    @property
    def id(self) -> str:
        """Name, weights digest and precision."""
        return self._id

    async def prepare(self, policies: Sequence[Policy]) -> None:
        """Encode the policies' statements; about a tenth of a second each, once for each digest."""
        await asyncio.get_running_loop().run_in_executor(self._worker, self._scorer.prepare, tuple(policies))

    async def classify(self, requests: Sequence[ClassifyRequest], *, deadline: float) -> list[Answer]:
        """Scores in order; see `Classifier`. What waits when its deadline passes is not computed any more."""
        if self._closed:
            raise ClassifierError("crash", "the embedded classifier is closed")
        if not requests:
            return []
        size = sum(len(text) for text in {request.text for request in requests})
        if self._waiting_size + size > MOST_WAITING and self._waiting:
            raise ClassifierError("overloaded", f"{len(self._waiting)} calls with {self._waiting_size} characters are waiting already")
        call = _Call(tuple(requests), deadline, size, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        self._waiting_size += size
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await call.answer

    async def aclose(self) -> None:
        """Fail who waits, let the pass in hand end, free the thread."""
        self._closed = True
        while self._waiting:
            _settle(self._waiting.popleft(), ClassifierError("crash", "the embedded classifier was closed"))
        if self._running is not None:
            await asyncio.wait({self._running})
        self._worker.shutdown(wait=True)

    async def _run(self) -> None:
        """Schedule, run, settle, until nobody waits."""
        loop = asyncio.get_running_loop()
        while batch := self._schedule():
            requests = [request for call in batch for request in call.requests]
            latest = max(call.deadline for call in batch)
            try:
                answers = await loop.run_in_executor(self._worker, self._answers, requests, latest)
            except Exception as error:  # border: whatever broke in there, every waiter is told at once and the loop lives on
                logger.exception("embedded classifier failed on a batch of %d", len(requests))
                for call in batch:
                    _settle(call, ClassifierError("crash", f"the embedded model failed: {type(error).__name__}"))
                continue
            place = 0
            for call in batch:
                _settle(call, answers[place : place + len(call.requests)])
                place += len(call.requests)

    def _schedule(self) -> list[_Call]:
        """The next callers in order, dropping who has gone or whose time is up."""
        batch: list[_Call] = []
        size = 0
        while self._waiting and (not batch or size + self._waiting[0].size <= CHARACTERS_A_BATCH):
            call = self._waiting.popleft()
            self._waiting_size -= call.size
            if call.answer.done():
                continue
            if call.deadline <= time.monotonic():
                _settle(call, ClassifierError("timeout", "the deadline passed while waiting for the embedded model"))
                continue
            batch.append(call)
            size += call.size
        return batch

    def _answers(self, requests: Sequence[ClassifyRequest], deadline: float) -> list[Answer]:
        """On the worker thread: one answer a request; a bad one does not spoil its neighbours."""
        answers: list[Answer | None] = [self._refusal(request) for request in requests]
        asked = [place for place, answer in enumerate(answers) if answer is None]
        if asked:
            try:
                found = self._scorer.score([(requests[place].text, requests[place].policy) for place in asked], deadline=deadline)
            except TimeoutError:
                late = ClassifierError("timeout", "the deadline passed while the embedded model was reading")
                return [late if answer is None else answer for answer in answers]
            for place, each in zip(asked, found, strict=True):
                answers[place] = self._scored(each)
        return [answer for answer in answers if answer is not None]

    def _refusal(self, request: ClassifyRequest) -> ClassifierError | None:
        if len(request.text) > MOST_CHARACTERS:
            return ClassifierError("too_long", f"{len(request.text)} characters, the embedded model reads {MOST_CHARACTERS} at most")
        if not self._scorer.is_resident(request.policy):
            return ClassifierError("not_prepared", f"policy {request.policy.id} {request.policy.version} was not prepared")
        return None

    def _scored(self, found: Found) -> Answer:
        if not math.isfinite(found.value):
            return ClassifierError("not_a_number", "the embedded model gave no number")
        return Score(found.value, self._id, span=found.span)


def _settle(call: _Call, answer: list[Answer] | ClassifierError) -> None:
    if call.answer.done():
        return
    if isinstance(answer, ClassifierError):
        call.answer.set_exception(answer)
    else:
        call.answer.set_result(answer)


def _dtype(precision: Precision) -> torch.dtype:
    if precision == "auto":
        return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32  # noqa: SLF001  (torch has no public name for it)
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
