"""The upstream and classifier sections: one model a kind, told apart by `kind`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from guardrail.config.adapter import AdapterClassifier
from guardrail.config.cope import CopeClassifier
from guardrail.config.fields import HttpUrl, ImportString, Section, Variable
from guardrail.config.remote import CompletionsClassifier, LabelClassifier, VllmClassifier

_API_KEY = "Name of the environment variable that holds the upstream's API key. Never the key."
_READ = "Longest silence of the upstream, in seconds."
_ANSWER = "Largest answer that is held for judging, in bytes; a larger one is an error."


class OpenAIUpstream(Section):
    """An API that speaks OpenAI's protocol; bytes are passed through."""

    kind: Literal["openai"] = Field(description="An API that speaks OpenAI's protocol.")
    base_url: HttpUrl = Field(description="Address up to and including /v1; http or https.")
    api_key_env: Variable | None = Field(
        default=None, description=_API_KEY + " Without it, and without tenants, the client's own Authorization is passed on."
    )
    key_header: Literal["authorization", "x-api-key"] = Field(
        default="authorization", description="Where that key goes: Authorization (Bearer), or x-api-key as Anthropic's own API wants it."
    )
    connect_timeout_s: float = Field(default=5.0, gt=0, le=300, description="Longest wait for a connection, in seconds.")
    retry_budget: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Share of requests that may be tried again after a failed connect, beside ten at the start; 0 for none.",
    )
    read_timeout_s: float = Field(default=120.0, gt=0, le=3_600, description=_READ)
    max_answer_bytes: int = Field(default=33_554_432, ge=1_024, le=1_073_741_824, description=_ANSWER)


class LiteLLMUpstream(Section):
    """Another provider's API, translated by litellm (pip extra `guardrail[litellm]`)."""

    kind: Literal["litellm"] = Field(description="Another provider's API, translated by litellm (pip extra `guardrail[litellm]`).")
    model_prefix: Annotated[str, StringConstraints(max_length=64, pattern=r"^([A-Za-z0-9._-]+/)+$")] = Field(
        description="The provider, put before the requested model, so that no client chooses another: anthropic/."
    )
    api_key_env: Variable | None = Field(default=None, description=_API_KEY)
    read_timeout_s: float = Field(default=120.0, gt=0, le=3_600, description=_READ)
    max_answer_bytes: int = Field(default=33_554_432, ge=1_024, le=1_073_741_824, description=_ANSWER)


class EmbeddedUpstream(Section):
    """The demonstration model inside this package; it needs no key and no network."""

    kind: Literal["embedded"] = Field(default="embedded", description="The demonstration model inside this package.")


class EmbeddedClassifier(Section):
    """The small policy-reading model inside this package; runs on the CPU."""

    kind: Literal["embedded"] = Field(
        default="embedded", description="The small policy-reading model inside this package; runs on the CPU."
    )
    threads: int = Field(
        default=1,
        ge=1,
        le=64,
        description="CPU threads a pass is spread over. More than one helps only while other cores idle: each waits for the slowest.",
    )


class CustomClassifier(Section):
    """A classifier made by code that the operator installed."""

    kind: Literal["custom"] = Field(description="A classifier made by code that you installed.")
    factory: ImportString = Field(description="`package.module:function`; it is called with the options and returns the classifier.")
    options: Mapping[str, Any] = Field(
        default_factory=dict, max_length=100, description="What the factory is called with. No secrets here."
    )


UpstreamConfig = Annotated[OpenAIUpstream | EmbeddedUpstream | LiteLLMUpstream, Field(discriminator="kind")]
RemoteClassifier = VllmClassifier | CompletionsClassifier | LabelClassifier
LocalClassifier = EmbeddedClassifier | CopeClassifier | AdapterClassifier
ClassifierConfig = Annotated[LocalClassifier | CustomClassifier | RemoteClassifier, Field(discriminator="kind")]
