"""A question to the guard without any generation, and how its answer is spelled: what every check endpoint has in common."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from guardrail.conversation import History
from guardrail.errors import WireError
from guardrail.types import Decision, Mode, Part, Policy, Stage, Verdict
from guardrail.wire.document import dump
from guardrail.wire.parts import PartList
from guardrail.wire.refusal import JSON, Reply


@dataclass(frozen=True, slots=True)
class Place:
    """Which of the caller's own routes answers: the one named, or the one that `path` and `model` take, or the first for neither.

    `preferred` is the name of a route, or of something else that then has no meaning here. Nothing else in a question can choose or
    change what is checked.
    """

    route: str | None = None
    path: str | None = None
    model: str | None = None
    preferred: str | None = None


@dataclass(frozen=True, slots=True)
class Inquiry:
    """What is to be judged, in which stage, by which route, and how the decision is told.

    `policies`: these instead of the route's own, by id or ad hoc. `scores`: the answer tells scores, so that there must be something to
    check: a text that nothing was asked about must not look harmless. `answer` raises WireError for a decision that its protocol cannot
    tell, such as one that could not be made. `history`: the turns, where the parts are a conversation. `said`: what an answer was given to,
    None where the question does not tell it.
    """

    parts: tuple[Part, ...]
    answer: Callable[[Decision], Reply]
    stage: Stage = Stage.INPUT
    place: Place = Place()
    policies: tuple[str | Policy, ...] | None = None
    scores: bool = True
    history: History | None = None
    said: str | None = None


def only(document: Mapping[str, object], known: frozenset[str]) -> None:
    """Raises WireError (400) for a field that is not known: a question that is misunderstood must not be answered."""
    for key in document:
        if key not in known:
            raise WireError(400, "unknown_field", f"A field is not known here; known are {', '.join(sorted(known))}.")


def text_field(document: Mapping[str, object], name: str, *, longest: int = 256) -> str | None:
    """An optional short string. Raises WireError (400) for anything else."""
    value = document.get(name)
    if value is not None and (not isinstance(value, str) or not 0 < len(value) <= longest):
        raise WireError(400, f"invalid_{name}", f"{name} must be a string of 1 to {longest} characters.", param=name)
    return value


def text_list(document: Mapping[str, object], name: str, *, required: bool = True) -> list[str]:
    """A list of strings. Raises WireError (400) for anything else, and for an empty one where it is required."""
    value = document.get(name)
    if value is None and not required:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value) or (required and not value):
        raise WireError(400, f"invalid_{name}", f"{name} must be a {'non-empty ' if required else ''}list of strings.", param=name)
    return value


def messages_field(document: Mapping[str, object], name: str, parts: PartList) -> None:
    """Add every message of a list, as a chat request's are. Raises WireError (400) for anything else than objects in a list."""
    messages = document.get(name)
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise WireError(400, f"invalid_{name}", f"{name} must be a list of objects.", param=name)
    for number, message in enumerate(messages):
        parts.message(f"{name}[{number}]", message)


def enforced(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Without those of shadow policies, which change nothing and are not named to clients."""
    return [verdict for verdict in verdicts if verdict.mode is Mode.ENFORCE]


def judged_whole(decision: Decision) -> None:
    """Raises WireError unless all was judged: 422 for content that is no text, 503 where a classifier failed.

    For protocols that tell scores: what has none must not look like a low one. A policy in shadow mode is told to nobody, so it may
    fail.
    """
    if decision.unscannable:
        raise WireError(422, "unscannable", "It holds content that cannot be checked.")
    if any(verdict.error is not None for verdict in enforced(decision.verdicts)):
        raise WireError(503, "guardrail_unavailable", "The content could not be checked.")


def reply(document: object, status: int = 200) -> Reply:
    """A JSON answer."""
    return Reply(status, JSON, dump(document))
