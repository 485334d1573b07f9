"""OpenAI's `moderation` parameter of chat completions and responses, served by our own policies: each category is one of them, by its id.

`{"model": …, "policy": {"input": {"mode": "score" | "block"}, "output": …}}`; what is left out is scored. It is never sent on, and it only
adds to what the route checks: in each stage the policies of the other one that apply to it, too, and with `block` everything that the route
would only annotate blocks. Policies in shadow mode stay in it and are told to nobody. `model` changes nothing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from guardrail.errors import WireError
from guardrail.types import Action, Check, Decision, Mode, Route, Stage, Verdict
from guardrail.wire.collecting import parse_event
from guardrail.wire.document import dump, parse_object
from guardrail.wire.inquiry import enforced
from guardrail.wire.messages import named_event
from guardrail.wire.moderations import category_result
from guardrail.wire.sse import SseDecoder, SseEvent, frame

FIELD = "moderation"
StageMode = Literal["score", "block"]


@dataclass(frozen=True, slots=True)
class Moderation:
    """What was asked for in each stage."""

    input: StageMode = "score"
    output: StageMode = "score"

    def widened(self, route: Route) -> Route:
        """The route with what this adds to it."""
        own = _widened(route, Stage.INPUT, self.input), _widened(route, Stage.OUTPUT, self.output)
        return replace(route, input=own[0], output=own[1])


def read_moderation(document: Mapping[str, object]) -> Moderation | None:
    """What a request asks for, None for nothing. Raises WireError (400) for anything that is not understood to its last field."""
    asked = document.get(FIELD)
    if asked is None:
        return None
    if not isinstance(asked, Mapping) or not isinstance(asked.get("model"), str) or asked.keys() - {"model", "policy"}:
        raise _invalid("must be an object with a model and, if need be, a policy")
    policy = asked.get("policy")
    if policy is None:
        return Moderation()
    if not isinstance(policy, Mapping) or policy.keys() - {"input", "output"}:
        raise _invalid("has a policy that is no object of input and output")
    return Moderation(_mode(policy.get("input")), _mode(policy.get("output")))


def without_moderation(document: Mapping[str, object]) -> bytes:
    """The request as it is sent on."""
    return dump({key: value for key, value in document.items() if key != FIELD})


def chat_moderation(decisions: Iterable[Decision]) -> dict[str, object]:
    """The results of a chat completion, in the order of its choices."""
    return {stage.value: _told(_of(decisions, stage), _chat_results) for stage in Stage}


def response_moderation(decisions: Iterable[Decision]) -> dict[str, object]:
    """The results of a response."""
    return {stage.value: _told(_of(decisions, stage), _response_result) for stage in Stage}


def moderated_chat(pieces: Sequence[bytes], results: object, *, streamed: bool) -> tuple[bytes, ...]:
    """A chat completion with the results in it; a streamed one has them on its last frame, where there always is one."""
    if not streamed:
        return (dump({**parse_object(b"".join(pieces)), FIELD: results}),)
    return _on_last(pieces, lambda document: {**document, FIELD: results})


def moderated_response(pieces: Sequence[bytes], results: object, *, streamed: bool) -> tuple[bytes, ...]:
    """A response with the results in it; a streamed one has them in the response of its last event."""
    if not streamed:
        return moderated_chat(pieces, results, streamed=False)

    def within(document: Mapping[str, object]) -> Mapping[str, object]:
        response = document.get("response")
        return {**document, "response": {**(response if isinstance(response, Mapping) else {}), FIELD: results}}

    return _on_last(pieces, within)


def _invalid(why: str) -> WireError:
    return WireError(400, "invalid_moderation", f"{FIELD} {why}.", param=FIELD)


def _mode(asked: object) -> StageMode:
    if asked is None:
        return "score"
    if not isinstance(asked, Mapping) or asked.keys() != {"mode"} or asked["mode"] not in ("score", "block"):
        raise _invalid("has a policy whose mode is neither score nor block")
    return "block" if asked["mode"] == "block" else "score"


def _widened(route: Route, stage: Stage, mode: StageMode) -> tuple[Check, ...]:
    own, least = route.checks(stage), Action.BLOCK if mode == "block" else Action.ANNOTATE
    if mode == "block":
        own = tuple(replace(check, action=max(check.action, least)) if check.mode is Mode.ENFORCE else check for check in own)
    known = {check.policy.id for check in own}
    other = route.checks(Stage.OUTPUT if stage is Stage.INPUT else Stage.INPUT)
    added = (check for check in other if check.mode is Mode.ENFORCE and stage in check.policy.applies_to and check.policy.id not in known)
    return (*own, *(_moved(check, stage, least) for check in added))


def _moved(check: Check, stage: Stage, action: Action) -> Check:
    """The other stage's check in this one: at the policy's threshold of this stage, unless the route has set another."""
    policy = check.policy
    its_own = check.threshold == policy.threshold_at(Stage.OUTPUT if stage is Stage.INPUT else Stage.INPUT)
    return replace(check, threshold=policy.threshold_at(stage) if its_own else check.threshold, action=action)


def _of(decisions: Iterable[Decision], stage: Stage) -> Decision | None:
    return next((decision for decision in decisions if decision.stage is stage), None)


def _told(decision: Decision | None, spell: Callable[[list[Verdict]], dict[str, object]]) -> dict[str, object]:
    verdicts = [] if decision is None else enforced(decision.verdicts)
    if decision is not None and decision.unscannable:
        return {"type": "error", "code": "unscannable", "message": "It holds content that cannot be checked."}
    if any(verdict.error is not None for verdict in verdicts):
        return {"type": "error", "code": "guardrail_unavailable", "message": "The content could not be checked."}
    if not verdicts:
        return {"type": "error", "code": "nothing_to_check", "message": "There is no text in it, or no policy for it."}
    return spell(verdicts)


def _chat_results(verdicts: list[Verdict]) -> dict[str, object]:
    choices = sorted({verdict.choice for verdict in verdicts}, key=lambda choice: -1 if choice is None else choice)
    found = [_result(verdicts, [verdict for verdict in verdicts if verdict.choice == choice]) for choice in choices]
    return {"type": "moderation_results", "model": verdicts[0].classifier, "results": found}


def _response_result(verdicts: list[Verdict]) -> dict[str, object]:
    return _result(verdicts, verdicts)


def _result(verdicts: list[Verdict], own: list[Verdict]) -> dict[str, object]:
    categories = tuple(dict.fromkeys(verdict.policy_id for verdict in verdicts))
    return {"type": "moderation_result", "model": verdicts[0].classifier, **category_result(own, categories)}


def _on_last(pieces: Sequence[bytes], change: Callable[[Mapping[str, object]], Mapping[str, object]]) -> tuple[bytes, ...]:
    """The events with the last one that holds a document changed."""
    events = [event for piece in pieces for event in _events(piece)]
    for place in range(len(events) - 1, -1, -1):
        data, name = events[place].data, events[place].name
        if data is not None and data.strip() != "[DONE]":
            document = change(parse_event(data))
            raw = frame(document) if name is None else named_event(document)
            return (*(event.raw for event in events[:place]), raw, *(event.raw for event in events[place + 1 :]))
    return tuple(pieces)


def _events(piece: bytes) -> list[SseEvent]:
    decoder = SseDecoder(max_event_bytes=len(piece) + 2)
    return [*decoder.feed(piece), *decoder.close()]
