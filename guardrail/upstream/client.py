"""An OpenAI-shaped upstream over HTTP: one pooled aiohttp session, bytes passed through."""

from contextlib import AbstractAsyncContextManager

from guardrail.upstream.answer import Headers, Limits, Timeouts, UpstreamAnswer


class UpstreamClient:
    """`base_url` is the API's root as OpenAI clients write it (`https://host/v1`); a leading `/v1` of a path is not repeated.

    With `api_key` set, the client's Authorization is replaced by it, otherwise passed through. Raises ValueError for a
    `base_url` that is not http(s).
    """

    def __init__(
        self, base_url: str, *, api_key: str | None = None, timeouts: Timeouts | None = None, limits: Limits | None = None
    ) -> None:
        raise NotImplementedError

    def send(self, method: str, path: str, headers: Headers, body: bytes) -> AbstractAsyncContextManager[UpstreamAnswer]:
        """See `Upstream.send`. A failed connect is retried (nothing was sent); a request that reached the upstream never is."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Close the pool. Idempotent."""
        raise NotImplementedError
