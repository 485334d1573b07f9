"""A streamed answer on its way out, sans I/O: what came in pieces is let out in pieces, none before its mode allows it.

flow = AnswerFlow(Streaming(StreamMode.WINDOW), placeholder=Placeholders(key))
step = flow.feed(StreamPart(0, "choices[0].message.content"), "Hello", now=time)      # step.judge: windows for the classifier
step = flow.settle(window, Ruling(Action.PASS))                                       # step.release: what may go out now
step = flow.close()                                                                   # the rest is judged

At all times, for each part: released + withheld == produced, in characters; what is out is a beginning of what was produced (with
placeholders where a ruling took something out); and, but for `watch`, a verdict that let it pass covers all that is out.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from guardrail.cadence import Widening
from guardrail.decision import decide
from guardrail.errors import UpstreamError
from guardrail.types import Action, Fallback, Mode, Streaming, StreamMode, Verdict
from guardrail.window_part import Pace, PartFlow, Ruling, StreamPart, Window

__all__ = ["AnswerFlow", "Bounds", "Release", "Ruling", "Step", "StreamPart", "Window", "joined", "ruling"]

MOST_PARTS = 2_048

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an answer may cost.

    `withheld`: characters that wait to be let out, at most (under `hold` all of them do, so it is no bound there); `longest`: characters of
    the whole answer. What is more is an error, never a release. `growth`: how checks widen (see `Widening`; 0 for a classifier that keeps
    what it has read). `ahead`: windows of one part that are judged at once under `overlap`.
    """

    withheld: int = 262_144
    longest: int = 8_388_608
    growth: float = 0.25
    ahead: int = 4


@dataclass(frozen=True, slots=True)
class Release:
    """Text of one part that may go out, behind what went out of it before."""

    part: StreamPart
    text: str


@dataclass(frozen=True, slots=True)
class Step:
    """What follows from one call, each in order.

    `release`: what may go out. `judge`: windows to be judged, in any order, and settled. `blocked`: choices of which nothing more goes out,
    with the ruling that says why. `finished`: choices that came to their end and are out as a whole.
    """

    release: tuple[Release, ...] = ()
    judge: tuple[Window, ...] = ()
    blocked: tuple[tuple[int, Ruling], ...] = ()
    finished: tuple[int, ...] = ()


_NOTHING = Step()


@dataclass(slots=True)
class _Choice:
    parts: list[PartFlow]
    complete: bool = False
    blocked: bool = False
    told: bool = False


class AnswerFlow:
    """One answer: any number of choices, each of any number of parts, interleaved in any way. Times (`now`) are seconds of one clock.

    `hold`: every part is judged once, when the answer has ended, and a choice is let out when all of its parts may pass.
    `window`: a part is judged again each time it has grown by a window and ends between two words; `overlap` likewise, with several windows
    of a part in judgement at once. `watch`: a part is out when it comes, and judged behind. A part that is `whole` is judged when it is
    complete, and let out with the end of its choice, when all else of that may pass.
    """

    def __init__(self, streaming: Streaming, bounds: Bounds | None = None, *, placeholder: Callable[[str], str] | None = None) -> None:
        self._bounds = bounds or Bounds()
        self._mode = streaming.mode
        ahead = self._bounds.ahead if self._mode is StreamMode.OVERLAP else 1
        widening = Widening(streaming.window, self._bounds.growth)
        self._pace = Pace(streaming, widening, ahead, placeholder or (lambda _: "[redacted]"))
        self._choices: dict[int, _Choice] = {}
        self._parts: dict[StreamPart, PartFlow] = {}
        self._numbers = 0
        self._now = float("-inf")
        self._kept = self._withheld = 0
        self._overflowed = False

    @property
    def wake_at(self) -> float | None:
        """The time at which `tick` is to be called, if nothing else happens before; None: not at all."""
        waiting = [part.due_at for part in self._open() if part.due_at is not None and part.due_at > self._now and not part.whole]
        return min(waiting, default=None)

    @property
    def over(self) -> bool:
        """Whether nothing more can go out: every choice that there is was blocked."""
        return bool(self._choices) and all(choice.blocked for choice in self._choices.values())

    @property
    def waiting(self) -> int:
        """Characters of all parts that are withheld and may come out yet."""
        return self._withheld

    def produced(self, part: StreamPart) -> int:
        """Characters that came of a part. Halves of a code point that came apart are one."""
        return flow.produced if (flow := self._parts.get(part)) is not None else 0

    def released(self, part: StreamPart) -> int:
        """Characters of those that are out, those included that a placeholder stands for."""
        return flow.released if (flow := self._parts.get(part)) is not None else 0

    def withheld(self, part: StreamPart) -> int:
        """Characters that came and are not out, whether they may come out or were blocked."""
        return flow.withheld if (flow := self._parts.get(part)) is not None else 0

    def feed(self, part: StreamPart, text: str, *, now: float) -> Step:
        """More of a part came. Raises UpstreamError: `too_large` beyond the bounds, after which nothing more is let out."""
        self._alive()
        self._now = now
        choice = self._choices.setdefault(part.choice, _Choice([]))
        if choice.told and not choice.blocked:
            raise self._dead("malformed", "the upstream's stream goes on with a choice that it had finished")
        choice.complete = False
        flow = self._flow(part, choice, now)
        out = self._counted(flow, lambda: flow.add(text))
        self._within_bounds()
        windows = self._cut(flow, now=now)
        if not windows and not out:
            return _NOTHING
        return Step((Release(part, out),) if out else (), windows)

    def complete(self, part: StreamPart) -> Step:
        """A part is complete, as far as can be told (more of it may still come): it is judged to its end."""
        self._alive()
        flow = self._parts.get(part)
        if flow is None or self._mode is StreamMode.HOLD or self._choices[part.choice].blocked:
            return Step()
        return self._ended([flow])

    def finish(self, choice: int) -> Step:
        """A choice is complete."""
        self._alive()
        found = self._choices.setdefault(choice, _Choice([]))
        if self._mode is StreamMode.HOLD or found.blocked:
            return Step()
        found.complete = True
        return joined([self._ended(found.parts), self._whole(choice)])

    def close(self) -> Step:
        """The answer is complete. Once all windows are settled all of it is out, but for what was blocked."""
        self._alive()
        steps = []
        for number, choice in self._choices.items():
            if not choice.blocked:
                choice.complete = True
                steps += [self._ended(choice.parts), self._whole(number)]
        return joined(steps)

    def tick(self, *, now: float) -> Step:
        """Time has passed: first windows that are due are judged though they are not full."""
        self._alive()
        self._now = now
        due = [part for part in self._open() if part.due_at is not None and part.due_at <= now]
        return Step(judge=tuple(window for part in due for window in self._cut(part, now=now)))

    def settle(self, window: Window, ruling: Ruling) -> Step:
        """A window was judged. Windows may be settled in any order; one whose text was rewritten meanwhile means nothing any more.

        `BLOCK` ends the choice. `REDACT` takes its spans out of what is not out yet, and the rest is judged again; where one of them is out
        already, in a `whole` part and under `watch`, it is a block. Everything weaker lets the window pass.
        """
        self._alive()
        flow, choice = self._parts[window.part], self._choices[window.part.choice]
        if choice.blocked:
            return Step()
        if not self._counted(flow, lambda: flow.settle(window.number, ruling)):
            return self._block(window.part.choice, ruling)
        text = self._counted(flow, flow.release)
        step = Step((Release(window.part, text),) if text else (), self._cut(flow))
        self._within_bounds()
        return joined([step, self._whole(window.part.choice)])

    def block(self, choice: int, ruling: Ruling) -> Step:
        """Something else than a window's verdict ends a choice: a part of it that cannot be read, say."""
        self._alive()
        if self._choices.setdefault(choice, _Choice([])).blocked:
            return Step()
        return self._block(choice, ruling)

    def unjudged(self) -> tuple[Window, ...]:
        """What is out and was not judged, in choices that are not blocked: something under `watch` only. For an answer that broke off."""
        found = [flow.unjudged(self._numbers + place) for place, flow in enumerate(self._open())]
        return tuple(window for window in found if window is not None)

    def _flow(self, part: StreamPart, choice: _Choice, now: float) -> PartFlow:
        flow = self._parts.get(part)
        if flow is None:
            if len(self._parts) >= MOST_PARTS:
                raise self._dead("too_large", f"the upstream's answer has more than {MOST_PARTS} parts")
            flow = self._parts[part] = PartFlow(part, self._pace, now=now)
            choice.parts.append(flow)
            if choice.blocked:
                flow.drop()
        return flow

    def _open(self) -> Iterator[PartFlow]:
        return (part for choice in self._choices.values() if not choice.blocked for part in choice.parts)

    def _ended(self, parts: Iterable[PartFlow]) -> Step:
        released: list[Release] = []
        windows: list[Window] = []
        for flow in parts:
            out = self._counted(flow, flow.end)
            windows += self._cut(flow)
            out += self._counted(flow, flow.release)
            released += [Release(flow.part, out)] if out else []
        return Step(tuple(released), tuple(windows))

    def _cut(self, flow: PartFlow, *, now: float | None = None) -> tuple[Window, ...]:
        window = flow.cut(self._numbers, now=now)
        if window is None:
            return ()
        self._numbers += 1
        return (window,)

    def _whole(self, number: int) -> Step:
        """The end of a choice: what is let out in one piece, once all of the choice may pass."""
        choice = self._choices[number]
        if not choice.complete or choice.blocked or choice.told or not all(flow.complete and flow.settled for flow in choice.parts):
            return Step()
        choice.told = True
        texts = [(flow.part, self._counted(flow, flow.release_whole)) for flow in choice.parts]
        return Step(tuple(Release(part, text) for part, text in texts if text), finished=(number,))

    def _block(self, number: int, ruling: Ruling) -> Step:
        choice = self._choices[number]
        choice.blocked = choice.told = True
        for flow in choice.parts:
            self._kept -= flow.kept
            self._withheld -= flow.withheld
            flow.drop()
        return Step(blocked=((number, ruling),))

    def _counted(self, flow: PartFlow, change: Callable[[], T]) -> T:
        """Do something to a part and keep the sums. What a blocked choice produces is not kept, so it does not count."""
        if self._choices[flow.part.choice].blocked:
            return change()
        kept, withheld = flow.kept, flow.withheld
        result = change()
        self._kept += flow.kept - kept
        self._withheld += flow.withheld - withheld
        return result

    def _within_bounds(self) -> None:
        if self._withheld > self._bounds.withheld and self._mode is not StreamMode.HOLD:
            raise self._dead("too_large", f"more than {self._bounds.withheld} characters of the upstream's answer wait for their verdict")
        if self._kept > self._bounds.longest:
            raise self._dead("too_large", f"the upstream's answer is longer than {self._bounds.longest} characters")

    def _dead(self, code: str, message: str) -> UpstreamError:
        self._overflowed = True
        return UpstreamError(code, message)

    def _alive(self) -> None:
        if self._overflowed:
            raise UpstreamError("too_large", "the answer was given up: nothing more of it is let out")


def ruling(verdicts: Iterable[Verdict], part: StreamPart, *, on_error: Fallback) -> Ruling:
    """What verdicts over several windows' texts say of one of them: those that name its path."""
    found = [verdict for verdict in verdicts if verdict.part == part.path]
    outcome = decide(found, on_error=on_error)
    redacting = [verdict for verdict in found if verdict.violation and verdict.mode is Mode.ENFORCE and verdict.action is Action.REDACT]
    spans = [verdict.span for verdict in redacting if verdict.span is not None]
    return Ruling(outcome.action, tuple(spans) if len(spans) == len(redacting) else (), outcome.unavailable)


def joined(steps: Iterable[Step]) -> Step:
    """Several calls' steps as one."""
    found = list(steps)
    if len(found) == 1:
        return found[0]
    return Step(
        tuple(release for step in found for release in step.release),
        tuple(window for step in found for window in step.judge),
        tuple(blocked for step in found for blocked in step.blocked),
        tuple(number for step in found for number in step.finished),
    )
