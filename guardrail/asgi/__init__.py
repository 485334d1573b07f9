"""The HTTP surface: a pure ASGI middleware that judges exchanges, the forwarding app behind it, health, and the proxy made of them."""

from guardrail.asgi.middleware import GuardMiddleware
from guardrail.asgi.service import GuardService

__all__ = ["GuardMiddleware", "GuardService"]
