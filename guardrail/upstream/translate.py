"""Other providers through litellm: an OpenAI request in, OpenAI bytes out. litellm is imported only when this is used."""

from contextlib import AbstractAsyncContextManager

from guardrail.upstream.answer import Headers, Limits, Timeouts, UpstreamAnswer


class LitellmUpstream:
    """`model_prefix` (`anthropic/`) is put before the request's model. Same interface as `UpstreamClient`."""

    def __init__(
        self, model_prefix: str = "", *, api_key: str | None = None, timeouts: Timeouts | None = None, limits: Limits | None = None
    ) -> None:
        raise NotImplementedError

    def send(self, method: str, path: str, headers: Headers, body: bytes) -> AbstractAsyncContextManager[UpstreamAnswer]:
        """See `Upstream.send`. Only `/v1/chat/completions` is served; others are answered 404."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Idempotent."""
