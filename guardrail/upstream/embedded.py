"""The embedded upstream: a small scripted chat server with OpenAI's wire format, for the first minute, demos and benchmarks."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]


class EmbeddedUpstream:
    """An ASGI app (uvicorn serves it, `InProcessUpstream` drives it). `hits` counts chat completion requests; nothing else is kept.

    The scenario is the request's `model` (see `MODELS`); an unknown model is answered as `embedded-chat`.
    """

    def __init__(self, *, delay_s: float = 0.02) -> None:
        self.hits = 0
        self._delay_s = delay_s

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
        """The ASGI entry."""
        raise NotImplementedError
