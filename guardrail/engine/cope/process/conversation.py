"""The engine's end of one connection: a client's questions, its streams, and what is left of them when it goes."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from guardrail.engine.cope.messages import Ask, EngineClient, Health, Prefix
from guardrail.engine.cope.process import dialogue
from guardrail.engine.cope.process.dialogue import ENTRIES_A_FRAME, Answered
from guardrail.engine.cope.process.link import Bounds, Link
from guardrail.engine.cope.process.wire import Frame, FrameError
from guardrail.errors import ClassifierError

MOST_QUESTIONS = 16_384  # of one client; the engine's own queue is bounded in tokens, long before that
MOST_STREAMS = 65_536
NUMBERS_A_FRAME = 1 << 20
ANSWERS_A_FRAME = 2 * ENTRIES_A_FRAME

logger = logging.getLogger("guardrail.engine")


class Conversation:
    """One client. Its streams are kept apart from other clients' of the same name. `left` is called once, when it is gone."""

    def __init__(self, engine: EngineClient, name: str, left: Callable[["Conversation"], None], *, bounds: Bounds) -> None:
        self.name = name
        self.link = Link(self._receive, self._over, bounds=bounds)
        self.reason = ""
        self._engine = engine
        self._left = left
        self._greeted = False
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._streams: set[str] = set()
        self._ready: list[Answered] = []
        self._gone = asyncio.Event()

    @property
    def greeted(self) -> bool:
        """Whether the client has said which version it speaks."""
        return self._greeted

    @property
    def outstanding(self) -> int:
        """Questions that have no answer yet."""
        return len(self._tasks)

    def tell(self, health: Health) -> None:
        """How the engine is. A client that is behind with reading is spared it."""
        if self._greeted and not self.link.unsent:
            self.link.send(dialogue.well(health))

    async def close(self) -> None:
        """End it, and wait until nothing of it is under way any more."""
        self.link.part("the engine is shutting down", tell=False)
        await self._gone.wait()
        if tasks := list(self._tasks.values()):
            await asyncio.wait(tasks)

    def _receive(self, frame: Frame) -> None:
        if not self._greeted:
            dialogue.hello_of(frame)
            self._greeted = True
            self.link.send(dialogue.hello(self._engine.info))
            self.tell(self._engine.health())
            return
        match frame.kind:
            case "ask":
                number, asks = dialogue.asks_of(frame)
                self._begin(number, self._ask(number, asks), partial(self._failed, number, len(asks)))
            case "prepare":
                number, prefixes, deadline = dialogue.prefixes_of(frame)
                self._begin(number, self._prepare(number, prefixes, deadline), partial(self._unprepared, number))
            case "cancel":
                if (task := self._tasks.get(dialogue.cancel_of(frame))) is not None:
                    task.cancel()
            case "forget":
                self._forget(dialogue.forget_of(frame))
            case _:
                raise FrameError(f"a client says ask, prepare, cancel or forget, not {frame.kind!r}")

    def _begin(self, number: int, work: Coroutine[Any, Any, None], fail: Callable[[ClassifierError], None]) -> None:
        if number in self._tasks or len(self._tasks) >= MOST_QUESTIONS:
            work.close()
            if number in self._tasks:
                raise FrameError(f"question {number} was asked twice")
            fail(ClassifierError("overloaded", f"{MOST_QUESTIONS} questions of one worker wait for the engine already"))
            return
        self._tasks[number] = task = asyncio.create_task(work)
        task.add_done_callback(partial(self._ended, number, fail))

    def _ended(self, number: int, fail: Callable[[ClassifierError], None], task: asyncio.Task[None]) -> None:
        """Whatever becomes of a question, its client is told, unless it took the question back."""
        self._tasks.pop(number, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the engine failed on a question", exc_info=error)
            fail(ClassifierError("crash", f"the engine failed: {type(error).__name__}"))

    async def _ask(self, number: int, asks: list[Ask]) -> None:
        named = [ask if ask.stream is None else replace(ask, stream=self._own(ask.stream)) for ask in asks]
        new = {ask.stream for ask in named if ask.stream is not None} - self._streams
        if len(self._streams) + len(new) > MOST_STREAMS:
            return self._failed(number, len(asks), ClassifierError("overloaded", f"{MOST_STREAMS} streams of one worker are open already"))
        self._streams |= new
        try:
            self._answer(Answered(number, await self._engine.ask(named)))
        except ClassifierError as error:
            self._failed(number, len(asks), error)

    async def _prepare(self, number: int, prefixes: list[Prefix], deadline: float) -> None:
        try:
            await self._engine.prepare(prefixes, deadline=deadline)
        except ClassifierError as error:
            self._unprepared(number, error)
        else:
            self.link.send(dialogue.prepared(number, None))

    def _failed(self, number: int, count: int, error: ClassifierError) -> None:
        self._answer(Answered(number, [error] * count))

    def _unprepared(self, number: int, error: ClassifierError) -> None:
        self.link.send(dialogue.prepared(number, error))

    def _answer(self, answered: Answered) -> None:
        """Send it with whatever else the same pass of the engine has answered: one frame, one wake-up of the client."""
        self._ready.append(answered)
        if len(self._ready) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        ready, self._ready = self._ready, []
        for batch in _batches(ready):
            self.link.send(dialogue.answered(batch))

    def _forget(self, stream: str) -> None:
        name = self._own(stream)
        self._streams.discard(name)
        self._forget_soon({name})

    def _forget_soon(self, streams: set[str]) -> None:
        """Once the engine has heard of questions that were taken back just now: one of them would begin its stream anew."""
        loop = asyncio.get_running_loop()
        for stream in streams:
            loop.call_soon(self._engine.forget, stream)

    def _own(self, stream: str) -> str:
        return f"{self.name}/{stream}"

    def _over(self, reason: str) -> None:
        """The client is gone: nobody waits for its questions, and its streams' pages are given back."""
        self.reason = reason
        for task in self._tasks.values():
            task.cancel()
        self._forget_soon(self._streams)
        self._streams = set()
        self._gone.set()
        self._left(self)


def _batches(ready: list[Answered]) -> Iterator[list[Answered]]:
    """As few frames as fit: nearly always one."""
    batch: list[Answered] = []
    numbers = answers = 0
    for answered in ready:
        more = sum(3 + len(answer.read.probe) for answer in answered.answers if not isinstance(answer, ClassifierError))
        if batch and (numbers + more > NUMBERS_A_FRAME or answers + len(answered.answers) > ANSWERS_A_FRAME):
            yield batch
            batch, numbers, answers = [], 0, 0
        batch.append(answered)
        numbers += more
        answers += len(answered.answers)
    if batch:
        yield batch
