"""A streamed answer that is let out while it is judged: `window`, `overlap` and `watch`. (`hold` is `guardrail.asgi.hold`.)"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from guardrail.asgi.hold import EVENT_STREAM
from guardrail.asgi.messages import RawHeaders, header
from guardrail.errors import UpstreamError
from guardrail.guard_stream import AnswerJudge
from guardrail.types import Action, Decision, Fallback, Mode, Part, Route, Streaming, StreamMode, Verdict
from guardrail.window import AnswerFlow, Bounds, Ruling, Step, StreamPart, Window, joined
from guardrail.wire.answer import FilterResults
from guardrail.wire.release import Release, Said


def streams_live(route: Route, headers: RawHeaders) -> bool:
    """Whether an answer with these (lower-case) headers is a stream that the route lets out while it is judged, or takes
    something out of. Else it is held."""
    media = (header(headers, b"content-type") or b"").partition(b";")[0].strip().lower()
    plain = (header(headers, b"content-encoding") or b"identity").lower() == b"identity"
    taken_apart = route.streaming.mode is not StreamMode.HOLD or redacts(route)
    return taken_apart and media == EVENT_STREAM and plain


def redacts(route: Route) -> bool:
    """Whether a route may take something out of an answer."""
    return any(check.action is Action.REDACT and check.mode is Mode.ENFORCE for check in route.output)


_PAUSE = 65_536
"""Characters waiting for their verdict from which nothing more is taken of the upstream."""


class UnjudgedError(Exception):
    """The answer could not be judged and the route blocks what is not: the stream ends as broken."""


@dataclass(frozen=True, slots=True)
class Ways:
    """How an answer goes out: `write` takes bytes for the client, `notice` is said in place of an answer that is blocked from its start.

    `choices` is how many the request asked for; `unscannable` says what a part that cannot be read leads to; `placeholder` makes what
    stands for what is taken out.
    """

    write: Callable[[bytes], Awaitable[None]]
    notice: str | None
    choices: int = 1
    unscannable: Fallback = Fallback.BLOCK
    placeholder: Callable[[str], str] | None = None


class StreamedAnswer:
    """One answer: `receive` its bytes until `over` or the upstream ends, then `finish`; always `aclose`.

    Windows are judged beside the reading: under `window` the next bytes are taken when those before them are judged, else at once, until
    too much waits for its verdict. A block ends its choice as the protocol spells it, with `released_chars`, the characters of its texts
    that are out. Raises UpstreamError as `Release` and `AnswerFlow` do, and UnjudgedError.
    """

    def __init__(self, streaming: Streaming, judge: AnswerJudge, wire: Release, ways: Ways) -> None:
        self._mode = streaming.mode
        # What `wire` takes bounds what there is: a character has a byte at least, and a text may be judged in several joinings.
        growth = 0.0 if judge.resident else Bounds().growth
        bounds = Bounds(withheld=4 * wire.max_bytes, longest=4 * wire.max_bytes, growth=growth)
        self._flow = AnswerFlow(streaming, bounds, placeholder=ways.placeholder)
        self._judge = judge
        self._wire = wire
        self._ways = ways
        self._turn = asyncio.Lock()  # one step at a time, and what it lets out is written before the next
        self._tasks: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._blocked: set[int] = set()
        self._said: dict[StreamPart, str] = {}
        self._kept: list[bytes] = []
        self._begun = False  # something of it was written
        self._redacted = False
        self._concluded = False
        self.most_held = 0
        """Characters that waited for their verdict, at most at a time."""
        self.ended = asyncio.Event()
        """Set as soon as all is blocked, or judging failed: `finish` then, and do not wait for more of the upstream."""

    @property
    def over(self) -> bool:
        """Whether nothing more that comes can go out: the upstream is not needed any more."""
        return self._wire.done or self._all_blocked

    @property
    def taken(self) -> Action:
        """What was done to it so far."""
        if self._blocked:
            return Action.BLOCK
        return Action.REDACT if self._redacted else Action.PASS

    @property
    def usage(self) -> Mapping[str, object] | None:
        """Token counts, as far as the upstream has reported them."""
        return self._wire.usage

    @property
    def head(self) -> Mapping[str, object]:
        """What the answer says of itself, as far as it has."""
        return self._wire.head

    @property
    def finish_reasons(self) -> list[str]:
        """What the upstream said, as far as it has."""
        return [reason for reason in self._wire.finish_reasons.values() if reason]

    async def receive(self, chunk: bytes) -> None:
        """Take bytes of the upstream's stream."""
        await self._say(self._wire.receive(chunk))
        while self._tasks and (self._mode is StreamMode.WINDOW or self._flow.waiting > _PAUSE):
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            self._raise()
        self._raise()

    async def finish(self) -> Decision:
        """The upstream's stream ended, or is not needed any more: judge and write the rest. The decision on the whole answer.

        Where nothing of it may be written before, it is written by `let_out`, so that the head can tell the decision: under `hold`, and
        where all was blocked from its start.
        """
        self._raise()
        unreadable: list[Part] = []
        if not self._all_blocked:
            await self._say(self._wire.finish())
            async with self._turn:
                unreadable = await self._end()
            while self._tasks:
                await asyncio.wait(self._tasks)
        async with self._turn:  # what is being written is written; nothing follows it but the end
            await self.stop()
        self._raise()
        self._concluded = True
        decision = await self._judge.recorded(self._judge.conclude(unreadable))
        if decision.outcome.unavailable and not self._all_blocked:  # the end is held until the record is kept
            raise UnjudgedError
        await self._write(self._wire.end(whole=not self._blocked))
        return decision

    async def let_out(self) -> None:
        """Write what was kept back until there was a decision."""
        kept, self._kept = b"".join(self._kept), []
        if kept:
            await self._ways.write(kept)

    async def _write(self, content: bytes) -> None:
        if self._mode is StreamMode.HOLD or (self._all_blocked and not self._begun):
            self._kept.append(content)
        else:
            self._begun = True
            await self._ways.write(content)

    async def stop(self) -> None:
        """Judge and write nothing more. Idempotent."""
        running = [*self._tasks, *([self._alarm] if self._alarm is not None else [])]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    async def aclose(self) -> Decision | None:
        """Stop, and judge what is out unjudged. The decision on an answer that broke off, if anything of it was judged or is out.
        Idempotent."""
        try:
            await self.stop()
        finally:
            decision = await self._broken_off()
        return decision

    async def _broken_off(self) -> Decision | None:
        concluded, self._concluded = self._concluded, True
        try:
            return None if concluded else await self._judge.broken_off(self._flow.unjudged())
        finally:
            await self._judge.aclose()

    @property
    def _all_blocked(self) -> bool:
        return self._blocked.issuperset(range(self._ways.choices))

    def _halt(self) -> None:
        """Nothing more can go out: what is still being judged is of no use. Within a turn, so none of it is being written."""
        for task in self._tasks - {asyncio.current_task()}:
            task.cancel()
        self.ended.set()

    def _asked_for(self, choices: Iterable[int]) -> None:
        """Raises UpstreamError for a choice beyond those asked for: it would count as one of them, or go out beside them."""
        if any(choice >= self._ways.choices for choice in choices):
            raise UpstreamError("malformed", f"the upstream's answer has more choices than the {self._ways.choices} asked for")

    async def _say(self, said: Sequence[Said]) -> None:
        self._asked_for((*(piece.choice for piece in said), *self._wire.finish_reasons))
        for piece in said:
            part = StreamPart(piece.choice, piece.path)
            self._said[part] = self._judge.kinds[piece.path] = piece.kind
            async with self._turn:
                if piece.text:
                    step = self._flow.feed(part, piece.text, now=time.monotonic())
                    self.most_held = max(self.most_held, self._flow.waiting)
                    await self._follow(step)
                if piece.complete:
                    await self._follow(self._flow.complete(part))
        if self._alarm is None and (wake := self._flow.wake_at) is not None:
            self._alarm = asyncio.create_task(self._tick(wake))
            self._alarm.add_done_callback(self._done)

    async def _end(self) -> list[Part]:
        """The whole answer is there: what of it is not judged yet goes the same way, in one piece. The parts that cannot be read."""
        unreadable = []
        others = self._wire.others()
        self._asked_for(part.choice or 0 for part in others)
        for part in others:
            choice = part.choice or 0
            if part.text is not None:
                self._judge.kinds[part.path] = part.kind
                self._flow.feed(StreamPart(choice, part.path, whole=True), part.text, now=time.monotonic())
                continue
            unreadable.append(part)
            if self._ways.unscannable is Fallback.BLOCK:
                await self._follow(self._flow.block(choice, Ruling(Action.BLOCK)))
        ends = [self._flow.finish(choice) for choice in self._wire.finish_reasons]
        await self._follow(joined([*ends, self._flow.close()]))
        return unreadable

    async def _follow(self, step: Step) -> None:
        """Do what follows from a step, within one turn."""
        for part, text in ((release.part, release.text) for release in step.release):
            if not part.whole and (content := self._wire.text(Said(part.choice, part.path, text), self._flow.released(part))):
                await self._write(content)
        for choice, ruled in step.blocked:
            if ruled.unavailable:
                raise UnjudgedError
            self._blocked.add(choice)
            texts = [part for part, kind in self._said.items() if part.choice == choice and kind == "text"]
            released = sum(self._flow.released(part) for part in texts)
            results = results_of(self._judge.violations(choice))
            await self._write(self._wire.refused(choice, results, self._ways.notice, released_chars=released))
        if step.blocked and self._all_blocked:
            self._halt()
        for choice in step.finished:
            if content := self._wire.rest(choice):
                await self._write(content)
        if step.judge:
            task = asyncio.create_task(self._judged(step.judge))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    async def _judged(self, windows: Sequence[Window]) -> None:
        for window, ruled in zip(windows, await self._judge.judge(windows), strict=True):
            if ruled.action is Action.REDACT:
                self._redacted = True
                self._wire.redacted(window.part.choice)
            async with self._turn:
                await self._follow(self._flow.settle(window, ruled))

    async def _tick(self, wake: float | None) -> None:
        while wake is not None:
            await asyncio.sleep(max(0.0, wake - time.monotonic()))
            async with self._turn:
                await self._follow(self._flow.tick(now=time.monotonic()))
            wake = self._flow.wake_at

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task is self._alarm:
            self._alarm = None
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._failure = self._failure or failure
            self.ended.set()

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure


def results_of(violations: Sequence[Verdict]) -> FilterResults:
    """Only what was enforced may show, the strongest verdict of each policy."""
    found: dict[str, dict[str, object]] = {}
    for verdict in violations:
        if verdict.mode is Mode.ENFORCE and verdict.action is Action.BLOCK:
            found.setdefault(verdict.policy_id, {"filtered": True, "detected": True, "score": round(verdict.score or 0.0, 4)})
    return found
