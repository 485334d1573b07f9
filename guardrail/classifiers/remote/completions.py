"""An OpenAI-compatible server: one token of completion, and the log probabilities of the likeliest tokens in its place.

For vLLM, SGLang and llama.cpp's server. Template A and its variants go to `/completions` as they are, template B is a user's message to
`/chat/completions`. With the model's tokenizer the prompt of either goes to `/completions` as token ids: then a text that spells a control
token has no power, the digits are known by id, and the server's count of tokens shows whether it read all of them. vLLM then is asked for
the two digits by name too (`logprob_token_ids`, in releases from 0.30 on), which other servers overlook. Shapes of request and answer
as in the three servers' sources; read there, not run against them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from guardrail.classifiers.remote.connection import Connection
from guardrail.classifiers.remote.digits import BOUNDED, Strictness, read
from guardrail.classifiers.remote.logprobs import shown
from guardrail.classifiers.remote.said import model_name, prompt_tokens
from guardrail.classifiers.remote.token_ids import TokenIds, require_whole
from guardrail.policy.prompt import render
from guardrail.types import ClassifyRequest, Provenance, Score

CHAT_TEMPLATES = frozenset({"B"})


@dataclass(frozen=True, slots=True)
class CompletionSettings:
    """`model`: its name on the server, None for the server's own. `logprobs`: how many of the likeliest tokens are asked for.

    `allowed_token_ids`: the digits' ids, to which vLLM then confines the answer; what the model would sooner have said is not seen.
    """

    model: str | None = None
    template: str = "A"
    logprobs: int = 20
    allowed_token_ids: tuple[int, ...] = ()
    strictness: Strictness = field(default_factory=Strictness)


class Completions:
    """An `Api`; see the module."""

    def __init__(self, settings: CompletionSettings, tokens: TokenIds | None = None) -> None:
        self._settings = settings
        self._tokens = tokens

    @property
    def id(self) -> str:
        """Kind and model name."""
        return f"completions:{self._settings.model or 'default'}"

    async def score(self, request: ClassifyRequest, server: Connection, *, deadline: float) -> Score:
        """See `Api.score`."""
        if self._tokens is not None:
            ids = [number for piece in await self._tokens.prompt(request) for number in piece]
            digits = self._tokens.digits
            named = {"return_tokens_as_token_ids": True, "logprob_token_ids": [digits.zero, digits.one]}
            body = await server.post(
                "/completions", self._question(prompt=ids, logprobs=self._settings.logprobs, **named), deadline=deadline
            )
            require_whole(prompt_tokens(body), len(ids), must_say=False)
            return self._score(body)
        prompt = render(request.policy, request.text, self._settings.template)
        if self._settings.template in CHAT_TEMPLATES:
            message = [{"role": "user", "content": prompt}]
            question = self._question(messages=message, logprobs=True, top_logprobs=self._settings.logprobs)
            return self._score(await server.post("/chat/completions", question, deadline=deadline))
        question = self._question(prompt=prompt, logprobs=self._settings.logprobs)
        return self._score(await server.post("/completions", question, deadline=deadline))

    def close(self) -> None:
        """End the encoding thread, if there is one."""
        if self._tokens is not None:
            self._tokens.close()

    def _question(self, **asked: object) -> dict[str, object]:
        question: dict[str, object] = {**asked, "max_tokens": 1, "temperature": 0}
        if self._settings.model is not None:
            question["model"] = self._settings.model
        if self._settings.allowed_token_ids:
            question["allowed_token_ids"] = list(self._settings.allowed_token_ids)
        return question

    def _score(self, body: Mapping[str, object]) -> Score:
        digits = self._tokens.digits if self._tokens else None
        answered = read(shown(body, digits, asked=self._settings.logprobs), self._settings.strictness)
        said = model_name(body)
        outside = None if self._settings.allowed_token_ids else answered.outside
        tokenizer = self._tokens.digest if self._tokens else ""
        return Score(
            answered.value,
            f"{self.id}@{said}",
            flags=(BOUNDED,) if answered.bounded else (),
            provenance=Provenance(self._settings.template, tokenizer, said, "", "", 0, outside),
        )
