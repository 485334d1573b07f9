"""`/healthz`: the process lives. `/readyz`: it judges, and rightly."""

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from guardrail.asgi.service import GuardService


def health_routes(service: GuardService) -> list[Route]:
    """Both paths. `/readyz` is 503 while the guard is not running or no longer kept fresh, while a classifier fails its known pair
    or says that it cannot serve."""

    async def healthz(request: Request) -> Response:
        del request
        return PlainTextResponse("ok")

    async def readyz(request: Request) -> Response:
        del request
        return JSONResponse(*readiness(service))

    return [Route("/healthz", healthz), Route("/readyz", readyz)]


def readiness(service: GuardService) -> tuple[dict[str, object], int]:
    """What `/readyz` says, and its status. `refused`: the files hold policies that could not be used; older ones are in force.

    `ended`: which of the watchers of policies and canaries has ended, so that nobody would notice what they look for. `breakers` are
    shown, and do not decide: the known pairs say whether a classifier judges, and an upstream is not ours.
    """
    publisher, canaries = service.publisher, service.canaries
    if publisher is None or canaries is None:
        return {"ready": False, "reason": "not running"}, 503
    ended = service.ended
    ready = canaries.ok and not ended
    document: dict[str, object] = {
        "ready": ready,
        "generation": publisher.generation,
        "policy_set": publisher.sets.short_digest,
        "policies": len(publisher.sets.distinct()),
        "refused": publisher.refused,
        "ended": ended,
        "breakers": service.breakers.states(),
        "classifiers": {name: {"ok": answer.ok, "detail": answer.detail} for name, answer in canaries.last.items()},
    }
    return document, 200 if ready else 503
