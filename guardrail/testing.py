"""The public fakes: what this package's own tests use is what yours can use.

classifier = ScriptedClassifier({"violence": contains("attack")})
guard = Guard({"scripted": classifier})
decision = await guard.check("an attack", route=route(policy("violence")))
"""

import asyncio
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

from guardrail.errors import ClassifierError
from guardrail.events import Event
from guardrail.types import Check, ClassifyRequest, Criterion, Label, Policy, Route, Score, Stage

E = TypeVar("E")
Rule = float | Mapping[str, object] | Callable[[str], object]
Fault = Literal["hang", "short", "not_a_number"] | Exception


def contains(*words: str, score: float = 0.97) -> Callable[[str], object]:
    """A rule: `score` for a text with one of the words in it (case aside), 0.02 for any other."""
    return lambda text: score if any(word.lower() in text.lower() for word in words) else 0.02


class ScriptedClassifier:
    """A classifier that answers as it was told.

    `script` maps a policy id (or `*` for any other) to a rule: a number, a mapping of exact texts to answers (0.0 for a text it
    does not hold), or a function of the text. What a rule gives is the answer: a probability becomes a Score, a Score or a
    ClassifierError stays itself, and anything else is handed out as it is, as a broken classifier would. A policy without a
    rule scores 0.0.

    `fault`, settable at any time, breaks the whole batch: an exception is raised, `hang` never returns, `short` leaves the last
    answer out, `not_a_number` answers NaN. `delay_s` slows every batch down. `requests` (what was asked, in order), `batches`,
    `prepared` (the policies of the last prepare), `cancelled` (batches) and `closed` say what happened to it.
    """

    def __init__(
        self,
        script: Mapping[str, Rule] | None = None,
        *,
        id: str = "scripted",  # noqa: A002  (the protocol's own word)
        delay_s: float = 0.0,
        fault: Fault | None = None,
    ) -> None:
        self._id = id
        self._script = dict(script or {})
        self.delay_s = delay_s
        self.fault = fault
        self.requests: list[ClassifyRequest] = []
        self.batches = 0
        self.prepared: tuple[Policy, ...] = ()
        self.cancelled = 0
        self.closed = False

    @property
    def id(self) -> str:
        """The name given to it."""
        return self._id

    async def prepare(self, policies: Sequence[Policy]) -> None:
        """Remember the policies."""
        self.prepared = tuple(policies)

    async def classify(self, requests: Sequence[ClassifyRequest], *, deadline: float) -> list[Score | ClassifierError]:  # noqa: ARG002
        """Answer by the script, after the delay, unless a fault is set."""
        self.batches += 1
        self.requests.extend(requests)
        try:
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if self.fault == "hang":
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(self.fault, Exception):
            raise self.fault
        answers: list[Any] = [math.nan if self.fault == "not_a_number" else self._answer(request) for request in requests]
        return answers[:-1] if self.fault == "short" else answers

    async def aclose(self) -> None:
        """Remember that it was closed."""
        self.closed = True

    def _answer(self, request: ClassifyRequest) -> object:
        rule = self._script.get(request.policy.id, self._script.get("*", 0.0))
        if isinstance(rule, Mapping):
            answer: object = rule.get(request.text, 0.0)
        else:
            answer = rule(request.text) if callable(rule) else rule
        if isinstance(answer, int | float) and 0.0 <= answer <= 1.0:
            return Score(float(answer), self._id)
        return answer


class RecordingSink:
    """An event sink that keeps every event, in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        """Keep one event."""
        self.events.append(event)

    def of(self, kind: type[E]) -> list[E]:
        """The events of one class."""
        return [event for event in self.events if isinstance(event, kind)]


def policy(id: str = "violence", **changes: Any) -> Policy:  # noqa: A002
    """A small valid policy; `changes` are fields of `Policy` to set otherwise. The digest follows the body."""
    body = str(changes.pop("body", f"# Policy\n## Definition of Labels\n### (X): {id}\n#### Includes\n- **{id}**: Content with {id}.\n"))
    judge_with: Any = changes.pop("judge_with", "nothing")
    judged = body if judge_with == "nothing" else f"{body}\0{judge_with}"
    made = Policy(
        id=id,
        version="1.0.0",
        title=id.replace("_", " ").capitalize(),
        label_code="X",
        threshold=0.5,
        applies_to=frozenset(Stage),
        language="en",
        overview="",
        terms=(),
        interpretation="",
        labels=(Label("X", id, (Criterion(id, f"Content with {id}.", 5),), (), 3),),
        body=body,
        digest="sha256:" + hashlib.sha256(judged.encode()).hexdigest(),
        judge_with=judge_with,
    )
    return replace(made, **changes)


def route(*policies: Policy | Check, **changes: Any) -> Route:
    """A route that blocks on these policies in both stages; `changes` are fields of `Route` to set otherwise."""
    prompts, answers = (
        tuple(item if isinstance(item, Check) else Check(item, item.threshold_at(stage)) for item in policies) for stage in Stage
    )
    made = Route(
        name="test",
        path="/v1/chat/completions",
        model="*",
        tenant="*",
        upstream="main",
        classifier="scripted",
        input=prompts,
        output=answers,
    )
    return replace(made, **changes)
