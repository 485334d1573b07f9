"""The adapter classifier: a multilabel head on a causal language model. It reads no policy text: a policy is one of its categories.

Callers share passes on one worker thread; a text is read once for all policies. What is too long for the model is judged in windows by
the guard, as with every classifier.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from guardrail.canary import Canary
from guardrail.classifiers.adapter_options import AdapterOptions, Outputs
from guardrail.engine.adapter.calibrations import read_calibrations
from guardrail.engine.adapter.loading import MultilabelModel
from guardrail.engine.adapter.model import padded
from guardrail.errors import ClassifierError
from guardrail.types import ClassifyRequest, Policy, Provenance, Score

MOST_WAITING = 4_194_304  # characters of all callers; a further one is told that the classifier is overloaded
MOST_CHARACTERS = 65_536  # a longer text is called too long before it is tokenised
MOST_AT_ONCE = 262_144  # characters that are tokenised between two passes

logger = logging.getLogger("guardrail")

Answer = Score | ClassifierError


class _Row:
    """One text of one call: its ids once it is tokenised, then its probabilities, or why there are none."""

    __slots__ = ("ids", "read", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.ids: list[int] | None = None
        self.read: list[float] | ClassifierError | None = None


class _Call:
    """One caller: each different text once."""

    def __init__(self, requests: Sequence[ClassifyRequest], deadline: float) -> None:
        self.requests = requests
        self.deadline = deadline
        self.rows = {request.text: _Row(request.text) for request in requests}
        self.size = sum(map(len, self.rows))
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def pending(self) -> list[_Row]:
        """What is not read yet."""
        return [row for row in self.rows.values() if row.read is None]

    def settle(self, error: ClassifierError | None = None) -> None:
        """Tell the caller, if it still waits."""
        if self.answer.done():
            return
        if error is None:
            self.answer.set_result(None)
        else:
            self.answer.set_exception(error)


class AdapterClassifier:
    """Scores with an adapter that `open_adapter` loaded.

    Raises ModelFileError for options that name a category, or ask for calibrations, that the adapter does not have.
    """

    def __init__(self, model: MultilabelModel, options: AdapterOptions | None = None) -> None:
        self._model = model
        self._options = options or AdapterOptions()
        calibrations = read_calibrations(model.frame.head.parent, model.frame, model.adapter_digest)
        self._outputs = Outputs.of(model.frame, calibrations, self._options)
        self._places = {label: place for place, label in enumerate(model.frame.labels)}
        self._labels: dict[tuple[str, str], str] = {}
        self._id = f"adapter@{model.digest[:23]}{self._outputs.suffix}"
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="adapter-classifier")
        self._waiting: deque[_Call] = deque()
        self._size = 0
        self._passes = 0
        self._running: asyncio.Task[None] | None = None
        self._outage: str | None = None
        self.canary: Canary | None = self._outputs.canary()
        """The operator's known pair; None where there is none: no text is known to belong to any adapter's categories."""

    @property
    def id(self) -> str:
        """`adapter@sha256:…` with the beginning of a digest over base, adapter, head and labels, and of what makes scores of it."""
        return self._id

    async def prepare(self, policies: Sequence[Policy]) -> None:
        """Find each policy's category. Raises ClassifierError (not_prepared) for a policy that has none: it never passes unjudged."""
        self._labels |= self._outputs.labels(policies)

    async def classify(self, requests: Sequence[ClassifyRequest], *, deadline: float) -> list[Answer]:
        """Scores in order; see `Classifier`. `criterion` is the category."""
        if self._outage == _CLOSED:
            raise ClassifierError("crash", _CLOSED)
        asked = [request for request in requests if request.policy.key in self._labels]
        call = _Call(asked, deadline)
        if self._size + call.size > MOST_WAITING and self._size:
            raise ClassifierError("overloaded", f"{self._size} characters are waiting already, {MOST_WAITING} may")
        if asked:
            await self._read(call)
        return [self._answer(call, request) for request in requests]

    def outage(self) -> str | None:
        """Why it cannot serve now; None when its last pass went well."""
        return self._outage

    def passes(self) -> int:
        """The passes that were made; see `SupportsProgress`."""
        return self._passes

    async def aclose(self) -> None:
        """Fail who waits, let the pass in hand end, free the thread."""
        self._outage = _CLOSED
        for call in self._waiting:
            call.settle(ClassifierError("crash", _CLOSED))
        if self._running is not None:
            await asyncio.wait({self._running})
        self._worker.shutdown(wait=True)

    async def _read(self, call: _Call) -> None:
        self._size += call.size
        self._waiting.append(call)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        try:
            await call.answer
        finally:
            self._size -= call.size

    async def _run(self) -> None:
        """One short pass after another until nobody waits. Who has gone, is late, or has all it asked for leaves in between."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            self._waiting = deque(call for call in self._waiting if self._wanted(call))
            calls = list(self._waiting)
            rows = [row for call in calls for row in call.pending]
            if not rows:
                continue
            try:
                await loop.run_in_executor(self._worker, self._advance, rows)
            except Exception as error:  # border: whatever broke in there, every waiter is told at once and the loop lives on
                logger.exception("the adapter classifier failed on %d calls", len(calls))
                told = f"the adapter's model failed: {type(error).__name__}"
                for call in calls:
                    call.settle(ClassifierError("crash", told))
                self._outage = self._outage or told
            else:
                self._passes += 1
                self._outage = self._outage if self._outage == _CLOSED else None

    def _wanted(self, call: _Call) -> bool:
        if not call.pending:
            call.settle()
        elif call.deadline <= time.monotonic():
            call.settle(ClassifierError("timeout", "the deadline passed before the adapter had read everything"))
        return not call.answer.done()

    def _advance(self, rows: Sequence[_Row]) -> None:
        """On the worker: tokenise some of what is not yet, then one pass over rows as long as the first that is."""
        taken = 0
        for row in rows:
            if row.ids is None and taken < MOST_AT_ONCE:
                self._tokenise(row)
                taken += len(row.text)
        ready = [(row, row.ids) for row in rows if row.ids is not None and row.read is None]
        if not ready:
            return
        length = padded(len(ready[0][1]))
        alike = [(row, ids) for row, ids in ready if padded(len(ids)) == length][: max(1, self._options.batch_tokens // length)]
        for (row, _), found in zip(alike, self._model.ask([ids for _, ids in alike]).tolist(), strict=True):
            row.read = found

    def _tokenise(self, row: _Row) -> None:
        if len(row.text) > MOST_CHARACTERS:
            row.read = ClassifierError("too_long", f"{len(row.text):,} characters, the adapter takes {MOST_CHARACTERS:,} at most")
            return
        ids = list(self._model.tokens.ids(row.text))
        if len(ids) > self._model.longest:
            row.read = ClassifierError("too_long", f"the text takes {len(ids):,} tokens, the adapter reads {self._model.longest:,} at most")
        else:
            row.ids = ids

    def _answer(self, call: _Call, request: ClassifyRequest) -> Answer:
        label = self._labels.get(request.policy.key)
        row = call.rows.get(request.text)
        if label is None or row is None or row.read is None:
            return ClassifierError("not_prepared", f"policy {request.policy.id} {request.policy.version} was not prepared")
        if isinstance(row.read, ClassifierError):
            return row.read
        probability = row.read[self._places[label]]
        if not math.isfinite(probability):
            return ClassifierError("not_a_number", f"the adapter gave no number for {label}")
        return Score(
            self._outputs.score(label, probability),
            self._id,
            criterion=label,
            provenance=Provenance(
                template="",
                tokenizer=self._model.tokens.digest,
                model=self._model.base_digest,
                adapter=self._model.adapter_digest,
                dtype=self._model.dtype,
                bucket=padded(len(row.ids or ())),
                outside=None,
            ),
        )


_CLOSED = "the adapter classifier is closed"
