"""The proxy: the guard's middleware around a forwarding app, with health and the list of models beside it."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route

from guardrail.asgi.aside import ModelsApp, UnknownApp
from guardrail.asgi.forward import ForwardApp
from guardrail.asgi.health import health_routes
from guardrail.asgi.judging import CHECK_ENDPOINTS, CheckApp
from guardrail.asgi.measurements import measurement_routes
from guardrail.asgi.middleware import GuardMiddleware
from guardrail.asgi.service import GuardService
from guardrail.asgi.stored import StoredTurns
from guardrail.upstream.answer import Loading, Upstream
from guardrail.upstream.breaking import BreakingUpstream


def make_app(service: GuardService, upstreams: Mapping[str, Upstream], *, beside: Sequence[BaseRoute] = ()) -> Starlette:
    """The proxy as an ASGI app. Its lifespan loads the upstreams, starts the guard, and closes all of them.

    `beside` are routes of more that is served here, asked after the proxy's own, so that they cannot stand in for one of those.

    Served are the guarded paths, the check endpoints (`guardrail.asgi.judging`), `/v1/models` (which holds no text to judge),
    `/healthz` and `/readyz`. Everything else is 404: a path that the guard does not understand is never passed on.
    """

    breakers = service.breakers.upstreams
    upstreams = {name: BreakingUpstream(one, breakers[name]) if name in breakers else one for name, one in upstreams.items()}

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        del app
        try:
            for upstream in upstreams.values():
                if isinstance(upstream, Loading):
                    await upstream.load()
            async with service:
                yield
        finally:
            for upstream in upstreams.values():
                await upstream.aclose()

    service.stored = StoredTurns(upstreams, private=service.tenants.configured)
    guarded = GuardMiddleware(ForwardApp(upstreams, private=service.tenants.configured), service, preflights=False)
    models = ModelsApp(service, upstreams)
    paths = sorted({path for route in service.config.routes for path in route.paths})
    return Starlette(
        routes=[
            *(Route(path, guarded) for path in paths),
            *(Route(endpoint.path, CheckApp(service, endpoint)) for endpoint in CHECK_ENDPOINTS),
            *health_routes(service),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", models),
            *measurement_routes(service),
            *beside,
            Route("/{path:path}", UnknownApp(service)),
        ],
        lifespan=lifespan,
    )
