"""vLLM's generative scoring: `POST /generative_scoring` with token ids.

Request and answer as in vLLM's source (vllm/entrypoints/…/generative_scoring/serving.py, in releases from 0.22 on):
`{model, query: [ids], items: [[ids]], label_token_ids: [id, id], apply_softmax}` is answered with
`{model, data: [{index, score}], usage: {prompt_tokens}}`. The prompt is query + item; `score` is the first label's probability, over the
labels alone with `apply_softmax`, over the vocabulary without. A prompt beyond --max-model-len is cut at its end without a word, which
only `usage.prompt_tokens` betrays. Read there, not run against a vLLM.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from guardrail.classifiers.remote.connection import Connection
from guardrail.classifiers.remote.digits import Strictness, answer
from guardrail.classifiers.remote.said import model_name, number, prompt_tokens
from guardrail.classifiers.remote.token_ids import TokenIds, require_whole
from guardrail.errors import ClassifierError
from guardrail.types import ClassifyRequest, Provenance, Score

PATH = "/generative_scoring"


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """`model`: its name on the server, None for the server's own. `check_outside`: ask for both digits' true probabilities, in two
    questions, so that an answer that is neither is an error; without it one question tells how they compare, and nothing else."""

    model: str | None = None
    check_outside: bool = True
    strictness: Strictness = field(default_factory=Strictness)


class GenerativeScoring:
    """An `Api`; see the module."""

    def __init__(self, tokens: TokenIds, settings: VllmSettings) -> None:
        self._tokens = tokens
        self._settings = settings

    @property
    def id(self) -> str:
        """Kind and model name."""
        return f"vllm:{self._settings.model or 'default'}"

    async def score(self, request: ClassifyRequest, server: Connection, *, deadline: float) -> Score:
        """See `Api.score`."""
        query, item = await self._tokens.prompt(request)
        digits = self._tokens.digits
        question = {"query": query, "items": [item], "apply_softmax": not self._settings.check_outside}
        if self._settings.model is not None:
            question["model"] = self._settings.model
        orders = [[digits.one, digits.zero], [digits.zero, digits.one]][: 2 if self._settings.check_outside else 1]
        asked = [server.post(PATH, {**question, "label_token_ids": order}, deadline=deadline) for order in orders]
        bodies = await asyncio.gather(*asked, return_exceptions=True)
        found = []
        for body in bodies:
            if isinstance(body, BaseException):
                raise body
            require_whole(prompt_tokens(body), len(query) + len(item), must_say=True)
            found.append(_probability(body))
            said = model_name(body)
        value, outside = self._read(found)
        provenance = Provenance(self._tokens.template, self._tokens.digest, said, "", "", 0, outside)
        return Score(value, f"{self.id}@{said}", provenance=provenance)

    def close(self) -> None:
        """End the encoding thread."""
        self._tokens.close()

    def _read(self, found: list[float]) -> tuple[float, float | None]:
        """The score and the mass outside of the digits, None where only their ratio was asked for."""
        if min(found) == 0:
            raise ClassifierError("malformed", "the server gave a digit no probability at all, which no model does")
        if len(found) == 1:
            return found[0], None
        one, zero = found
        answered = answer(zero, one, self._settings.strictness)
        return answered.value, answered.outside


def _probability(body: Mapping[str, object]) -> float:
    match body.get("data"):
        case [dict(item)] if (score := number(item.get("score"))) is not None:
            pass
        case _:
            raise ClassifierError("malformed", "the answer does not hold exactly one score")
    if not 0 <= score <= 1:
        raise ClassifierError("out_of_range", f"the server's score is {score:.3g}, not a probability")
    return score
