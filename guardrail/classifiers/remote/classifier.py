"""The classifier whose model runs on a server: questions fan out over one connection pool, each gets its own score or error."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from guardrail.classifiers.remote.connection import Connection
from guardrail.errors import ClassifierError
from guardrail.policy.prompt import header_lookalikes
from guardrail.types import ClassifyRequest, Policy, Score

TRIAL_TEXT = "The library opens at nine on weekdays."
MOST_WAITING = 16_384  # questions of all callers; a further caller is told that the classifier is overloaded
MOST_CHARACTERS = 262_144  # of one text
MOST_REMEMBERED = 4_096  # policies that have been tried

Answer = Score | ClassifierError


class Api(Protocol):
    """One way to ask: how a question is spelled for a server and what its answer says."""

    @property
    def id(self) -> str:
        """Kind and model name."""
        ...

    async def score(self, request: ClassifyRequest, server: Connection, *, deadline: float) -> Score:
        """Put one question. Raises ClassifierError for whatever is not a score."""
        ...

    def close(self) -> None:
        """Free threads."""
        ...


@dataclass(frozen=True, slots=True)
class Manners:
    """`trial_s`: longest time to try new policies on the server; `reserve_s`: how long before a deadline what is unanswered is given up,
    so that what was answered is not lost with it."""

    trial_s: float = 60.0
    reserve_s: float = 0.02


class RemoteClassifier:
    """Asks a server through an `Api`. Many callers may ask at once; `connections` questions are with the server, the others wait."""

    def __init__(self, api: Api, server: Connection, manners: Manners | None = None) -> None:
        self._api = api
        self._server = server
        self._manners = manners or Manners()
        self._tried: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._waiting = 0
        self._closed = False

    @property
    def id(self) -> str:
        """Kind and model name; a score's `classifier` adds what the server says of its model."""
        return self._api.id

    async def prepare(self, policies: Sequence[Policy]) -> None:
        """Ask about one harmless text under each policy that was not tried before: the server keeps the policy's beginning in its cache,
        and a wrong address, key or model is found before traffic is. Raises ClassifierError naming the policy."""
        fresh = list({policy.key: policy for policy in policies if policy.key not in self._tried}.values())
        deadline = time.monotonic() + self._manners.trial_s
        answers = await self.classify([ClassifyRequest(policy, TRIAL_TEXT) for policy in fresh], deadline=deadline)
        for policy, answer in zip(fresh, answers, strict=True):
            if isinstance(answer, ClassifierError):
                raise ClassifierError(answer.code, f"policy {policy.id!r} was tried on the server: {answer}")
        for policy in policies:
            self._tried[policy.key] = None
            self._tried.move_to_end(policy.key)
        while len(self._tried) > MOST_REMEMBERED:
            self._tried.popitem(last=False)

    async def classify(self, requests: Sequence[ClassifyRequest], *, deadline: float) -> list[Answer]:
        """Scores in order; see `Classifier`. A text of over 262,144 characters is an error, never cut."""
        if self._closed:
            raise ClassifierError("crash", f"classifier {self.id} is closed")
        if self._waiting and self._waiting + len(requests) > MOST_WAITING:
            raise ClassifierError("overloaded", f"{self._waiting} questions are waiting already, {MOST_WAITING} may")
        self._waiting += len(requests)
        try:
            return await self._answers(requests, deadline)
        finally:
            self._waiting -= len(requests)

    async def aclose(self) -> None:
        """Close the connections; what is under way becomes errors. Idempotent."""
        self._closed = True
        await self._server.aclose()
        self._api.close()

    async def _answers(self, requests: Sequence[ClassifyRequest], deadline: float) -> list[Answer]:
        answers: dict[int, Answer] = {}
        places = iter(range(len(requests)))

        async def work() -> None:
            for place in places:
                answers[place] = await self._answer(requests[place], deadline)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(len(requests), self._server.width)):
                group.create_task(work())
        dropped = ClassifierError("crash", f"classifier {self.id} was closed")  # aiohttp cancels who resolves a name when it is closed
        return [answers.get(place, dropped) for place in range(len(requests))]

    async def _answer(self, request: ClassifyRequest, deadline: float) -> Answer:
        if len(request.text) > MOST_CHARACTERS:
            return ClassifierError("too_long", f"{len(request.text):,} characters, {MOST_CHARACTERS:,} are sent at most")
        left = deadline - time.monotonic()
        left -= min(self._manners.reserve_s, 0.1 * left)
        try:
            async with asyncio.timeout(left):
                score = await self._api.score(_encodable(request), self._server, deadline=time.monotonic() + left)
        except TimeoutError:
            return ClassifierError("timeout", f"classifier {self.id} did not answer before the deadline")
        except ClassifierError as error:
            return error
        return replace(score, flags=(*score.flags, "header_lookalike")) if header_lookalikes(request.text) else score


def _encodable(request: ClassifyRequest) -> ClassifyRequest:
    """A lone surrogate, which no request can hold, is asked about as `?`."""
    text = request.text.encode("utf-8", "replace").decode("utf-8")
    return request if text == request.text else replace(request, text=text)
