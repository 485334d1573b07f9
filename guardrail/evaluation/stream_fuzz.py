"""The stream guard against random chunkings: what it lets out is compared with what a classifier that never errs said of it."""

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from guardrail.cadence import Widening
from guardrail.errors import UpstreamError
from guardrail.evaluation.stream_cases import Case, Cases, Text, smaller
from guardrail.types import Action, Span, StreamMode
from guardrail.window import AnswerFlow, Ruling, Step, StreamPart, Window

Make = Callable[[Case, Callable[[str], str]], AnswerFlow]

_SHRINKING_S = 5.0
_NUMBER = re.compile(r"\d+")
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


class ViolationError(AssertionError):
    """A promise of the stream guard that was broken, in a sentence."""


@dataclass(slots=True)
class Counts:
    """What was tried. `leaks` are characters let out that should not have been; `failures` broken promises of any kind."""

    chunkings: int = 0
    pieces: int = 0
    characters: int = 0
    windows: int = 0
    blocks: int = 0
    redactions: int = 0
    overflows: int = 0
    leaks: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """A run: the counts, how long it took in seconds, and the smallest case that failed, with what was wrong, if one did."""

    counts: Counts
    seconds: float
    failed: Case | None = None
    why: str = ""


def make_flow(case: Case, placeholder: Callable[[str], str]) -> AnswerFlow:
    """The real thing."""
    return AnswerFlow(case.streaming, case.bounds, placeholder=placeholder)


def fuzz(seed: int, *, seconds: float, chunkings: int | None = None, make: Make = make_flow) -> Fuzzed:
    """Play random cases until the time or the number is reached, or one fails, which is then made as small as it goes."""
    cases, counts = Cases(seed), Counts()
    started = time.monotonic()
    while (chunkings is None or counts.chunkings < chunkings) and time.monotonic() - started < seconds:
        case = cases.next()
        try:
            play(case, counts, make)
        except ViolationError as error:
            counts.failures += 1
            smallest, why = shrunk(case, str(error), make)
            return Fuzzed(counts, time.monotonic() - started, smallest, why)
    return Fuzzed(counts, time.monotonic() - started)


def shrunk(case: Case, why: str, make: Make = make_flow) -> tuple[Case, str]:
    """A case that fails, and why, of which nothing can be left out that was tried within some seconds."""
    until = time.monotonic() + _SHRINKING_S
    candidates = iter(smaller(case))
    while (candidate := next(candidates, None)) is not None and time.monotonic() < until:
        try:
            play(candidate, Counts(), make)
        except ViolationError as error:
            if _NUMBER.sub("", str(error)) == _NUMBER.sub("", why):  # not another promise on the way
                case, why = candidate, str(error)
                candidates = iter(smaller(case))
    return case, why


def play(case: Case, counts: Counts, make: Make = make_flow) -> None:
    """Stream one case and judge it, and add to the counts. Raises ViolationError for the first promise that is broken."""
    run = _Run(case, counts, make)
    counts.chunkings += 1
    counts.pieces += len(case.pieces)
    try:
        run.stream()
    except UpstreamError as error:
        run.overflowed(error)
        return
    run.finish()


@dataclass(slots=True)
class _Seen:
    """What the reader has of one part, what came of it, and the longest text that a verdict let pass."""

    produced: str = ""
    came: list[str] = field(default_factory=list)
    out: str = ""
    passed: list[str] = field(default_factory=list)
    windows: int = 0


_NOTHING = Step()


class _Run:
    def __init__(self, case: Case, counts: Counts, make: Make) -> None:
        self.case = case
        self.counts = counts
        self._chance = random.Random(case.order)  # noqa: S311  (nothing secret)
        self._placeholders: dict[str, str] = {}
        self._flow = make(case, self._placeholder)
        self._texts = case.texts()
        self._seen = {part: _Seen(text.text) for part, text in zip(case.parts, self._texts, strict=True)}
        self._text = dict(zip(case.parts, self._texts, strict=True))
        self._length = dict.fromkeys(case.parts, 0)
        self._pending: list[Window] = []
        self._blocked: set[int] = set()
        self._finished: set[int] = set()
        self._now = 0.0
        self._narrow = case.bounds.withheld < 10_000

    def stream(self) -> None:
        chance, flow = self._chance, self._flow
        eager = chance.random()
        for number, text in self.case.pieces:
            part = self.case.parts[number]
            self._now += chance.random() * 0.1
            if (wake := flow.wake_at) is not None and wake <= self._now:
                self._take(flow.tick(now=self._now))
            self._seen[part].came.append(text)
            self._length[part] += len(text)
            self._take(flow.feed(part, text, now=self._now))
            if self._narrow:
                self._bounded()
            if chance.random() < 0.2:
                self._account(part)
            while self._pending and chance.random() < eager:
                self._settle()
        for part in self.case.parts:
            if not self._seen[part].came:
                continue
            if chance.random() < 0.3:
                self._take(flow.complete(part))
            if chance.random() < 0.3:
                self._take(flow.finish(part.choice))
        self._take(flow.close())
        while self._pending:
            self._settle()

    def finish(self) -> None:
        """All is settled: what is blocked is what violates, and the rest is out."""
        bad = {part.choice for part in self.case.parts if self._text[part].first is not None and self._length[part]}
        choices = {part.choice for part in self.case.parts if self._seen[part].came}
        if self.case.action is Action.BLOCK:
            _hold(self._blocked == bad, "a choice is blocked, or not, unlike the same answer sent whole")
        else:
            _hold(self._blocked <= bad, "a choice is blocked in which nothing violates")
        _hold(self._finished == choices - self._blocked, "a choice that may pass did not come to its end")
        for part, seen in self._seen.items():
            self._account(part)
            if part.choice not in self._blocked:
                _hold(self._flow.withheld(part) == 0, "something that may pass was never let out")
                _hold(self._expanded(seen.out) == seen.produced, "what is out is not what was produced")
                _hold(self._text[part].pattern.search(seen.out) is None or self._watched, "something that violates is out")
            self.counts.characters += len(seen.produced)
            if self.case.action is Action.BLOCK:  # the first window may come early, and the last is what is left
                most = Widening(self.case.streaming.window, self.case.bounds.growth).most(len(seen.produced)) + 2
                _hold(seen.windows <= most, "more windows were judged than needed")
        self.counts.blocks += len(self._blocked)

    def overflowed(self, error: UpstreamError) -> None:
        """More was withheld than may be; nothing more may come out after that."""
        _hold(error.code == "too_large" and self._withheld() > self.case.bounds.withheld, f"gave up without need: {error}")
        for _ in range(2):
            try:
                self._flow.close()
            except UpstreamError:
                continue
            raise ViolationError("goes on after it gave up")
        self.counts.overflows += 1

    @property
    def _watched(self) -> bool:
        return self.case.streaming.mode is StreamMode.WATCH

    def _placeholder(self, text: str) -> str:
        return self._placeholders.setdefault(text, f"⟦{len(self._placeholders)}⟧")

    def _expanded(self, text: str) -> str:
        if not self._placeholders:
            return text
        for original, placeholder in reversed(self._placeholders.items()):
            text = text.replace(placeholder, original)
        return text

    def _settle(self) -> None:
        window = self._pending.pop(self._chance.randrange(len(self._pending)))
        seen, text = self._seen[window.part], self._text[window.part]
        found = [Span(*match.span()) for match in text.pattern.finditer(window.text)]
        if not found:
            seen.passed.append(window.text)
            self._take(self._flow.settle(window, Ruling(Action.PASS)))
        elif self.case.action is Action.REDACT:
            self.counts.redactions += 1
            self._take(self._flow.settle(window, Ruling(Action.REDACT, tuple(found))))
        else:
            self._take(self._flow.settle(window, Ruling(Action.BLOCK)))

    def _take(self, step: Step) -> None:
        if step == _NOTHING:
            return
        for release in step.release:
            self._released(release.part, release.text)
        for window in step.judge:
            self._judged(window)
        for choice, _ in step.blocked:
            _hold(choice not in self._blocked | self._finished, "a choice ended twice")
            self._blocked.add(choice)
        for choice in step.finished:
            _hold(choice not in self._blocked | self._finished, "a choice ended twice")
            self._finished.add(choice)
        for release in step.release:
            self._account(release.part)

    def _judged(self, window: Window) -> None:
        self._pending.append(window)
        self.counts.windows += 1
        self._seen[window.part].windows += 1
        text = self._text[window.part]
        if window.version == 0 and window.end < len(text.text):
            self._cut_well(text, window.end)

    def _released(self, part: StreamPart, text: str) -> None:
        seen, known = self._seen[part], self._text[part]
        seen.out += text
        _hold(part.choice not in self._blocked, "something of a blocked choice came out")
        if self._watched and not part.whole:
            _hold(seen.produced.startswith(seen.out), "what is out is no beginning of what was produced")
            return
        if not any(passed.startswith(seen.out) for passed in reversed(seen.passed)):
            self.counts.leaks += len(text)
            raise ViolationError(f"{len(seen.out)} characters are out that no verdict covers")
        if self.case.action is Action.BLOCK:
            _hold(seen.produced.startswith(seen.out), "what is out is no beginning of what was produced")
            self._leaks(known, len(seen.out))
            if len(seen.out) < len(known.text):
                self._cut_well(known, len(seen.out))
        if part.whole or self.case.streaming.mode is StreamMode.HOLD:
            _hold(self._expanded(seen.out) == seen.produced, "a part that is let out in one piece came out in several")

    def _leaks(self, text: Text, out: int) -> None:
        """Nothing that violates is out; not even its beginning where the overlap is as long as it."""
        bad = text.first
        if bad is None:
            return
        tight = bad.end - bad.start <= self.case.streaming.overlap + 1
        if out > (bad.start if tight else bad.end - 1):
            self.counts.leaks += out - bad.start
            raise ViolationError(f"{out} characters are out, of which those from {bad.start} to {bad.end} violate")

    def _cut_well(self, text: Text, place: int) -> None:
        _hold(place in text.clusters, "a cut lies within a grapheme cluster")
        _hold(not text.within_word(place), "a cut lies within a word")

    def _account(self, part: StreamPart) -> None:
        flow, seen = self._flow, self._seen[part]
        produced, released = flow.produced(part), flow.released(part)
        _hold(released + flow.withheld(part) == produced >= released >= 0, "released and withheld are not what was produced")
        _hold(released == len(self._expanded(seen.out)), "other characters are said to be out than are")
        came = "".join(seen.came)
        _hold(produced == len(came) - len(_PAIR.findall(came)), "characters were lost")

    def _bounded(self) -> None:
        if self.case.streaming.mode is not StreamMode.HOLD:
            _hold(self._withheld() <= self.case.bounds.withheld, "more is withheld than may be")

    def _withheld(self) -> int:
        return sum(self._flow.withheld(part) for part in self.case.parts if part.choice not in self._blocked)


def _hold(promise: bool, otherwise: str) -> None:
    if not promise:
        raise ViolationError(otherwise)
