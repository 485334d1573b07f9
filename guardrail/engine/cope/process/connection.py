"""A client's end of one connection: its questions, and who waits for them."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from guardrail.engine.cope.messages import Ask, EngineInfo, Health, Prefix
from guardrail.engine.cope.process import dialogue
from guardrail.engine.cope.process.dialogue import Answer
from guardrail.engine.cope.process.link import Bounds, Link
from guardrail.engine.cope.process.wire import Frame, FrameError
from guardrail.errors import ClassifierError


class Connection:
    """Made by `open`. When it ends `left` is called, everybody who waits has an error, and `over` is done, with the reason."""

    def __init__(self, bounds: Bounds, left: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self.link = Link(self._receive, self._lost, bounds=bounds)
        self.over: asyncio.Future[str] = loop.create_future()
        self.health: Health | None = None
        self.heard = time.monotonic()
        """When something came from the engine last."""
        self._greeting: asyncio.Future[EngineInfo] = loop.create_future()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count()
        self._left = left
        self._fault = ""

    @classmethod
    async def open(cls, path: Path, *, bounds: Bounds, left: Callable[[], None]) -> "Connection":
        """Connect and exchange greetings. Raises OSError when nobody listens, ClassifierError (crash) when nobody answers rightly."""
        connection = cls(bounds, left)
        await asyncio.get_running_loop().create_unix_connection(lambda: connection.link, str(path))
        with contextlib.ExitStack() as stack:
            stack.callback(connection.close, "the engine's greeting did not come")
            connection.link.send(dialogue.hello())
            try:
                async with asyncio.timeout(bounds.hello_s):
                    await connection._greeting
            except TimeoutError:
                raise ClassifierError("crash", f"the engine did not say hello within {bounds.hello_s:g} s") from None
            stack.pop_all()
        return connection

    @property
    def info(self) -> EngineInfo:
        """What the engine said it serves."""
        return self._greeting.result()

    async def ask(self, asks: Sequence[Ask], *, grace_s: float) -> list[Answer]:
        """The answers in order. Raises ClassifierError when none comes: crash, timeout (past every deadline), malformed."""
        wait_s = max(ask.deadline for ask in asks) + grace_s - time.monotonic()
        answers: list[Answer] = await self._question(lambda number: dialogue.asked(number, asks), wait_s)
        if len(answers) != len(asks):
            raise ClassifierError("malformed", f"the engine gave {len(answers)} answers to {len(asks)} asks")
        return answers

    async def prepare(self, prefixes: Sequence[Prefix], *, deadline: float, grace_s: float) -> None:
        """As the engine's own. Raises ClassifierError."""
        wait_s = deadline + grace_s - time.monotonic()
        await self._question(lambda number: dialogue.preparing(number, prefixes, deadline), wait_s)

    def forget(self, stream: str) -> None:
        """Does not wait."""
        self.link.send(dialogue.forget(stream))

    def close(self, reason: str) -> None:
        """End it; who waits is told."""
        self.link.part(reason, tell=False)

    async def _question(self, frame: Callable[[int], Frame], wait_s: float) -> Any:
        number = next(self._numbers)
        self._waiting[number] = answer = asyncio.get_running_loop().create_future()
        try:
            if not self.link.open:
                raise ClassifierError("crash", "the engine is gone")
            self.link.send(frame(number))
            async with asyncio.timeout(max(0.0, wait_s)):
                return await answer
        except FrameError as error:
            raise ClassifierError("malformed", f"this cannot be asked of the engine: {error}") from error
        except TimeoutError:
            raise ClassifierError("timeout", "the engine's process gave no answer before the deadline") from None
        finally:
            del self._waiting[number]
            if not answer.done() or answer.cancelled():
                self.link.send(dialogue.cancel(number))

    def _receive(self, frame: Frame) -> None:
        self.heard = time.monotonic()
        match frame.kind:
            case "fault":
                self._fault = dialogue.fault_of(frame)
            case "hello":
                info = dialogue.hello_of(frame)
                if info is None or self._greeting.done():
                    raise FrameError("an engine says once what it serves")
                self._greeting.set_result(info)
            case "health":
                self.health = dialogue.health_of(frame)
            case "answers":
                for answered in dialogue.answers_of(frame):
                    self._settle(answered.number, answered.answers)
            case "prepared":
                self._settle(*dialogue.prepared_of(frame))
            case _:
                raise FrameError(f"an engine does not say {frame.kind!r}")

    def _settle(self, number: int, answer: Sequence[Answer] | ClassifierError | None) -> None:
        """Tell who waits; nobody does where the question was taken back while its answer was on the way."""
        future = self._waiting.get(number)
        if future is None or future.done():
            return
        if isinstance(answer, ClassifierError):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    def _lost(self, reason: str) -> None:
        reason = f"the engine ended the connection: {self._fault}" if self._fault else reason
        self._left()
        for future in [*self._waiting.values(), self._greeting]:
            if not future.done():
                future.set_exception(ClassifierError("crash", f"the engine's process is gone: {reason}"))
                future.exception()  # who waits still gets it; where nobody does any more, that is no fault
        self.over.set_result(reason)
