"""The `limits` sections: what one tenant may ask for. A tenant's own keys stand over the server's."""

from typing import Any

from pydantic import Field

from guardrail.config.fields import Section

_NONE = " Default: the server's, else none."


class LimitsConfig(Section):
    """What one tenant may ask for. Under `server` it is for each tenant, under a tenant for that one."""

    requests_per_s: float | None = Field(
        default=None, gt=0, le=100_000, description="Requests a second; more are answered 429 with Retry-After. Checks count, too." + _NONE
    )
    burst: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Requests that may come at once after a pause. Default: those of one second, at least 1.",
    )
    concurrency: int | None = Field(default=None, ge=1, le=65_536, description="Requests served at once; more are answered 429." + _NONE)
    max_body_bytes: int | None = Field(
        default=None,
        ge=1_024,
        le=1_073_741_824,
        description="Largest request body, in bytes, tool definitions included; more is answered 413." + _NONE,
    )
    prompt_characters: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000_000,
        description="Characters of one prompt, of all text that is judged; more are answered 400." + _NONE,
    )
    characters_per_minute: int | None = Field(
        default=None, ge=1, le=1_000_000_000, description="Characters of all prompts of a minute; more are answered 429." + _NONE
    )
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        le=100_000_000,
        description="Tokens that a request may ask for, all its choices together; one that asks for more, or does not say, is answered 400."
        + _NONE,
    )

    def over(self, others: "LimitsConfig") -> "LimitsConfig":
        """These limits where they are set, the others where they are not."""
        mine: dict[str, Any] = {key: value for key, value in self if value is not None}
        return others.model_copy(update=mine)
