"""The page that Prometheus fetches. To everybody else it is not there."""

import asyncio
import hashlib
import hmac
from collections.abc import Callable

from starlette.routing import Route

from guardrail.asgi.aside import UnknownApp
from guardrail.asgi.messages import Receive, Scope, Send, body, raw_headers, start
from guardrail.asgi.service import GuardService
from guardrail.config.prometheus import PrometheusConfig
from guardrail.locality import is_local, one

Read = Callable[[str], tuple[bytes, str]]
"""The metrics in the format that an `Accept` header prefers, and its content type."""


def measurement_routes(service: GuardService) -> list[Route]:
    """The page, where the configuration asks for it."""
    wanted = service.config.telemetry.prometheus
    return [Route(wanted.path, MeasurementsApp(service, wanted, service.exposition))] if wanted.enabled and service.exposition else []


class MeasurementsApp:
    """Answers who has the key, or where there is none, whoever asks from this machine. Nothing of it is ever passed to an upstream."""

    def __init__(self, service: GuardService, wanted: PrometheusConfig, read: Read) -> None:
        self._hidden = UnknownApp(service)
        self._digest = None if wanted.key is None else bytes.fromhex(wanted.key.removeprefix("sha256:"))
        self._read = read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        if scope["method"] not in ("GET", "HEAD") or not self._may(scope):
            await self._hidden(scope, receive, send)
            return
        content, media = await asyncio.to_thread(self._read, one(scope["headers"], b"accept") or "")
        head = [("content-type", media), ("content-length", str(len(content))), ("cache-control", "no-store")]
        await send(start(200, raw_headers(head)))
        await send(body(b"" if scope["method"] == "HEAD" else content))

    def _may(self, scope: Scope) -> bool:
        if self._digest is None:
            return is_local(scope)
        scheme, _, key = (one(scope["headers"], b"authorization") or "").partition(" ")
        given = hashlib.sha256(key.strip().encode("latin-1")).digest()
        return scheme.lower() == "bearer" and hmac.compare_digest(given, self._digest)
