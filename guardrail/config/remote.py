"""The sections of classifiers whose model runs on a server."""

from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from guardrail.config.fields import Folder, HttpUrl, Items, Named, Section, Variable

ModelName = Annotated[str, StringConstraints(min_length=1, max_length=256)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]

_MODEL = "The model's name on the server; default: the server's own."
_TOKENIZER = "Folder with the model's tokenizer, relative to this file, or its id on the hub (pip extra `guardrail[cope]`)."
_OUTSIDE = "Most probability that may lie outside of 0 and 1; beyond it the answer is an error."
_LONGEST = "Most tokens of a whole prompt; longer texts are judged in windows. Not above the server's own limit."


class RemoteSection(Section):
    """What all of them have in common: how the server is asked."""

    api_key_env: Variable | None = Field(
        default=None, description="Name of the environment variable that holds the server's API key. Never the key."
    )
    model: ModelName | None = Field(default=None, description=_MODEL)
    connections: int = Field(default=32, ge=1, le=1_024, description="Most questions that the server is asked at once; further ones wait.")
    connect_timeout_s: float = Field(default=5.0, gt=0, le=300, description="Longest wait for a connection, in seconds.")
    trial_timeout_s: float = Field(
        default=60.0,
        gt=0,
        le=3_600,
        description="Longest time to try new policies on the server, at start and when they change, in seconds.",
    )


class VllmClassifier(RemoteSection):
    """A CoPE model on vLLM, asked through its generative scoring with token ids."""

    kind: Literal["vllm"] = Field(description="A CoPE model on vLLM, asked through /generative_scoring with token ids.")
    base_url: HttpUrl = Field(description="Address of the server, without /v1; http or https.")
    tokenizer: Folder = Field(description=_TOKENIZER)
    template: Literal["A", "B", "wmf", "demo"] = Field(default="A", description="The prompt that the model was tuned with.")
    longest_tokens: int = Field(default=8_192, ge=64, le=1_048_576, description=_LONGEST)
    check_outside: bool = Field(
        default=True, description="Ask twice, for the true probabilities of both digits, so that another answer is an error, not a score."
    )
    most_outside: float = Field(default=0.5, ge=0, le=1, description=_OUTSIDE)


class CompletionsClassifier(RemoteSection):
    """A CoPE model behind an OpenAI-compatible API that tells log probabilities: vLLM, SGLang, llama.cpp's server."""

    kind: Literal["completions"] = Field(
        description="A CoPE model behind an OpenAI-compatible API with log probabilities: vLLM, SGLang, llama.cpp's server."
    )
    base_url: HttpUrl = Field(description="Address up to and including /v1; http or https.")
    template: Literal["A", "B", "wmf", "demo"] = Field(
        default="A", description="The prompt that the model was tuned with; without a tokenizer B goes through chat completions."
    )
    tokenizer: Folder | None = Field(default=None, description=_TOKENIZER + " With it, prompts are sent as token ids.")
    longest_tokens: int = Field(default=8_192, ge=64, le=1_048_576, description=_LONGEST + " Used with a tokenizer.")
    logprobs: int = Field(default=20, ge=5, le=1_000, description="How many of the likeliest tokens the server is asked for.")
    allowed_token_ids: Items[TokenId] = Field(
        default=(),
        description="Ids of the tokens 0 and 1, to which vLLM then confines the answer; what else it would have said is not seen.",
    )
    most_outside: float = Field(default=0.5, ge=0, le=1, description=_OUTSIDE)
    slack: float = Field(
        default=0.01,
        ge=0,
        le=0.5,
        description="Most doubt in a score when one digit is not among the likeliest tokens and is bounded by the last of them.",
    )


class LabelerUse(Section):
    """A labeler that stands for a policy on the server."""

    id: str = Field(min_length=1, max_length=256, description="Id of the labeler.")
    version: str = Field(default="latest", min_length=1, max_length=256, description="Id of its deployed version, or latest.")


class LabelClassifier(RemoteSection):
    """Zentropi's label API, or a server of your own that speaks it."""

    kind: Literal["label"] = Field(description="Zentropi's label API, or a server of your own that speaks it.")
    base_url: HttpUrl = Field(default="https://api.zentropi.ai/v1", description="Address up to and including /v1; http or https.")
    labelers: Named[LabelerUse] = Field(
        default_factory=lambda: MappingProxyType({}),
        description="Labelers that stand for policies, by policy id; other policies are sent as criteria text.",
    )
