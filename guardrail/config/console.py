"""The `console` section: who may look at the console, and from where."""

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from guardrail.config.fields import KeyHash, Section

TRACE_ID = "{trace_id}"


def _is_trace_url(value: str) -> str:
    if not value.startswith(("https://", "http://")) or value.count(TRACE_ID) != 1 or any(sign.isspace() for sign in value):
        raise PydanticCustomError(
            "bad_url", "must start with http:// or https:// and hold {trace_id} once, like https://traces.example.com/trace/{trace_id}"
        )
    return value


TraceUrl = Annotated[str, AfterValidator(_is_trace_url), Field(max_length=2_048, json_schema_extra={"pattern": "^https?://"})]


class ConsoleConfig(Section):
    """Web pages for operators at /console: traffic, decisions, policies, a playground, health. Served only where this section stands."""

    admin_key: KeyHash = Field(
        description="Hash of the key that opens the console, made with `guardrail config hash-key`. No tenant's key; never the key itself."
    )
    public: bool = Field(
        default=False,
        description="Serve it to other machines too; else to clients on this machine alone, whatever the proxy listens on. A reverse proxy "
        "on this machine must set X-Forwarded-For, or those who come through it are taken for clients on this machine.",
    )
    session_minutes: int = Field(default=60, ge=5, le=1_440, description="How long one sign-in lasts, in minutes.")
    trace_url: TraceUrl | None = Field(
        default=None, description="Where your tracing tool shows a trace; {trace_id} stands for its id. Default: no link."
    )
