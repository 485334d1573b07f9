"""The CoPE classifier: policies and texts become token ids, the engine scores them, logits become probabilities or errors."""

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guardrail.calibration import suffix
from guardrail.classifiers.cope_options import CopeOptions
from guardrail.classifiers.cope_session import CopeSession
from guardrail.engine.cope.answer import outside, probability
from guardrail.engine.cope.messages import Ask, EngineClient, Health, Prefix, Priority, Told
from guardrail.engine.cope.tokens import PromptTokens, RowTokens
from guardrail.errors import ClassifierError, ModelFileError
from guardrail.interfaces import Workload
from guardrail.types import ClassifyRequest, Policy, Provenance, Score, Stage

PREPARE_S = 600.0  # longest wait until a set of policies is resident
MOST_OTHERS = 1_024  # policies remembered beside those prepared last: of callers, and of requests begun before new ones were in force
LONG = 20_000  # characters of a batch from which its texts are tokenised off the event loop: some milliseconds

Answer = Score | ClassifierError


@dataclass(frozen=True, slots=True)
class _Resident:
    """A prepared policy: its name in the engine, and how many tokens it takes."""

    key: str
    tokens: int
    policy_id: str


class CopeClassifier:
    """Scores with an engine, in this process or behind a socket. `open_engine` and `PromptTokens` make its two parts.

    Raises ModelFileError where the engine's model was loaded with another tokenizer or template than `prompt` has.
    """

    def __init__(self, engine: EngineClient, prompt: PromptTokens, options: CopeOptions | None = None) -> None:
        if engine.info.prompt not in ("", prompt.digest):
            raise ModelFileError(
                "the engine's model was loaded with another tokenizer or template than its folder has now; restart the engine"
            )
        self._engine = engine
        self._prompt = prompt
        self._options = options or CopeOptions()
        self._resident: dict[str, _Resident] = {}
        self._versions: dict[str, str] = {}  # policy id -> key of its latest version
        self._id = f"cope@{engine.info.model[:19]}" + (f"+{engine.info.adapter[:19]}" if engine.info.adapter else "")
        self._id += suffix(self._options.calibration)

    @property
    def id(self) -> str:
        """`cope@sha256:…` with the beginning of the weights' digest, of the adapter's, and of a calibration's."""
        return self._id

    async def prepare(self, policies: Sequence[Policy]) -> None:
        """Make the policies' prompt heads resident; a new version shares the unchanged beginning of the last one."""
        wanted: dict[str, tuple[_Resident, Prefix]] = {}
        for policy in policies:
            tokens = await asyncio.to_thread(self._prompt.prefix, policy.body)
            resident = _Resident(_key(tokens), len(tokens), policy.id)
            base = self._versions.get(policy.id)
            # Whose policy it is shows when it is used: tenants have theirs by their routes.
            wanted[policy.digest] = resident, Prefix(resident.key, tokens, tenant="", base=base if base != resident.key else None)
        prefixes = {prefix.key: prefix for _, prefix in wanted.values()}
        await self._engine.prepare(list(prefixes.values()), deadline=time.monotonic() + PREPARE_S)
        for digest, (resident, _) in wanted.items():
            self._resident.pop(digest, None)  # the latest stand last
            self._resident[digest] = resident
            self._versions[resident.policy_id] = resident.key
        while len(self._resident) > len(wanted) + MOST_OTHERS:
            del self._resident[next(iter(self._resident))]

    async def classify(self, requests: Sequence[ClassifyRequest], *, deadline: float) -> list[Answer]:
        """Scores in order; see `Classifier`. Equal texts are tokenised once."""
        answers: list[Answer | None] = [None] * len(requests)
        asks: list[tuple[int, Ask, RowTokens]] = []
        rows = await self._rows(requests, deadline)
        for place, request in enumerate(requests):
            try:
                prefix, row = self.resident(request.policy), rows[self._spelled_as(request)]
                if isinstance(row, ClassifierError):
                    raise row
                row = self.fitting(request.policy, row)
            except ClassifierError as error:
                answers[place] = error
                continue
            priority = Priority.INPUT if request.stage is Stage.INPUT else Priority.OUTPUT
            asks.append((place, Ask(prefix, row.tokens, deadline, priority, request.tenant), row))
        told = await self._engine.ask([ask for _, ask, _ in asks]) if asks else []
        for (place, _, row), answer in zip(asks, told, strict=True):
            answers[place] = self.scored(answer, row)
        return [answer for answer in answers if answer is not None]

    def session(self, policies: Sequence[Policy], *, tenant: str = "*") -> CopeSession:
        """A growing text, whose keys and values stay resident on top of each policy's."""
        return CopeSession(self, self._engine, self._prompt, policies, tenant=tenant)

    @property
    def options(self) -> CopeOptions:
        """How answers are read."""
        return self._options

    def health(self) -> Health:
        """The engine's."""
        return self._engine.health()

    def workload(self) -> Workload:
        """The tokens that wait for the engine."""
        return Workload(tokens=self._engine.health().queued_tokens)

    def passes(self) -> int:
        """The engine's batches; see `SupportsProgress`."""
        return self._engine.health().batches

    def outage(self) -> str | None:
        """Why the engine cannot serve now; None when it can."""
        health = self._engine.health()
        return None if health.alive else health.detail or f"the engine's last sign of life is {health.heartbeat_age_s:.1f} s old"

    async def aclose(self) -> None:
        """Close the engine, or the connection to it."""
        await self._engine.aclose()

    def resident(self, policy: Policy) -> str:
        """The engine's name of a prepared policy. Raises ClassifierError (not_prepared)."""
        found = self._resident.get(policy.digest)
        if found is None:
            raise ClassifierError("not_prepared", f"policy {policy.id} {policy.version} was not prepared")
        return found.key

    def fitting(self, policy: Policy, row: RowTokens) -> RowTokens:
        """The row, where it fits beside the policy. Raises ClassifierError (too_long, naming both counts)."""
        self.resident(policy)
        taken = self._resident[policy.digest].tokens
        longest = min(self._engine.info.longest, self._prompt.longest)
        if taken + len(row.tokens) > longest:
            message = (
                f"policy {policy.id} takes {taken:,} tokens and the text {len(row.tokens):,}, more than the {longest:,} that fit together"
            )
            raise ClassifierError("too_long", message)
        return row

    def scored(self, told: Told | ClassifierError, row: RowTokens) -> Answer:
        """What the engine told as a score, with what replaying it needs."""
        if isinstance(told, ClassifierError):
            return told
        try:
            value = probability(told.read, most_outside=self._options.most_outside)
        except ClassifierError as error:
            return error
        if self._options.calibration is not None:
            value = self._options.calibration.apply(value)
        info = self._engine.info
        return Score(
            value,
            self._id,
            flags=("header_lookalike",) if row.lookalikes else (),
            provenance=Provenance(
                template=self._prompt.template,
                tokenizer=self._prompt.digest,
                model=info.model,
                adapter=info.adapter,
                dtype=info.dtype if info.quantisation == "none" else f"{info.dtype}/{info.quantisation}",
                bucket=told.read.bucket,
                outside=outside(told.read),
            ),
        )

    async def _rows(self, requests: Sequence[ClassifyRequest], deadline: float) -> dict[tuple[str, str], RowTokens | ClassifierError]:
        """The row of each different text, or why there is none."""
        texts = {self._spelled_as(request): request.policy.body for request in requests}
        if sum(len(text) for text, _ in texts) > LONG:
            return await asyncio.to_thread(self._encoded, texts, deadline)
        return self._encoded(texts, deadline)

    def _encoded(self, texts: Mapping[tuple[str, str], str], deadline: float) -> dict[tuple[str, str], RowTokens | ClassifierError]:
        """Texts that have not had their turn by the deadline are given up: nobody waits for them any more."""
        found: dict[tuple[str, str], RowTokens | ClassifierError] = {}
        for key, body in texts.items():
            try:
                if time.monotonic() >= deadline:
                    raise ClassifierError("timeout", "the deadline passed before the text was tokenised")
                found[key] = self._prompt.row(key[0], body if self._prompt.seam == "whole" else None)
            except ClassifierError as error:
                found[key] = error
        return found

    def _spelled_as(self, request: ClassifyRequest) -> tuple[str, str]:
        """What a request's row depends on."""
        return request.text, request.policy.digest if self._prompt.seam == "whole" else ""


def _key(tokens: NDArray[np.int32]) -> str:
    return hashlib.sha256(np.ascontiguousarray(tokens, np.int32).tobytes()).hexdigest()[:32]
