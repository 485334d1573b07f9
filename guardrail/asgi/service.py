"""The running guard: its classifiers, the policies in force, its limits. One object for middleware, proxy, library and command line."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from guardrail.asgi.ad_hoc import AdHocPolicies
from guardrail.asgi.breakers import Breakers
from guardrail.asgi.canaries import Canaries, canary_of
from guardrail.asgi.exchange import Judgement
from guardrail.asgi.publication import Publisher
from guardrail.asgi.quotas import Quotas
from guardrail.asgi.stored import StoredTurns
from guardrail.canary import Canary
from guardrail.config.models import Config
from guardrail.config.tenants import Tenants
from guardrail.context import Answered
from guardrail.errors import GuardrailError, WireError
from guardrail.events import EventFanout
from guardrail.guard import Guard, Origin, Turn
from guardrail.interfaces import Classifier, Recorder, SupportsWorkload
from guardrail.routing import RouteTable
from guardrail.telemetry.calls import UpstreamCall
from guardrail.telemetry.gauges import State
from guardrail.telemetry.metrics import Metrics
from guardrail.telemetry.tracing import Target, Tracing
from guardrail.types import Check, Decision, Part, Policy, Route, Stage
from guardrail.verdict_cache import VerdictCache
from guardrail.wire.request import Request

logger = logging.getLogger("guardrail")

Opener = Callable[[], AbstractAsyncContextManager[Classifier]]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one request, bytes and seconds, and of how many there may be at once."""

    max_body_bytes: int = 10 * 1024 * 1024
    max_in_flight: int = 256
    client_timeout_s: float = 120.0
    max_answer_bytes: int = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An upstream as telemetry names it."""

    provider: str
    server: str | None = None


@dataclass(frozen=True, slots=True)
class Observers:
    """Who watches. `tracing` and `metrics` are None where nobody collects them. `close` sends what is left, off the event loop.

    `exposition` gives the metrics as Prometheus reads them: content and its type for an `Accept` header.
    """

    events: EventFanout = field(default_factory=EventFanout)
    tracing: Tracing | None = None
    metrics: Metrics | None = None
    close: Callable[[], None] | None = None
    recorder: Recorder | None = None
    exposition: Callable[[str], tuple[bytes, str]] | None = None


@dataclass(frozen=True, slots=True)
class Backends:
    """What does the work. `canary` is the known pair of classifiers without one of their own, `endpoints` name upstreams in spans.

    `workers`: how many processes serve this configuration, and so share the tenants' limits.
    """

    classifiers: Mapping[str, Opener]
    canary: Canary | None = None
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    workers: int = 1


class GuardService:
    """Made from a configuration, usable inside `async with`. Before and after that every request is refused with 503."""

    def __init__(self, config: Config, backends: Backends, observers: Observers | None = None) -> None:
        self.config = config
        self.limits = limits_of(config)
        self.tenants = Tenants.of(config)
        self.quotas = Quotas(config, workers=backends.workers)
        observers = observers or Observers()
        self.events = observers.events
        self.breakers = Breakers(config, self.events)
        self.tracing = observers.tracing
        self._metrics = observers.metrics
        self._close = observers.close
        self.exposition = observers.exposition
        if self._metrics is not None:
            self._metrics.watch(self._state)
        self.recorder = observers.recorder
        """What keeps the audit store; None where there is none."""
        self._backends = backends
        self._stack = AsyncExitStack()
        self._classifiers: dict[str, Classifier] = {}
        self._ad_hoc = AdHocPolicies(self._classifiers, self._published)
        self._publisher: Publisher | None = None
        self._in_flight = 0
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self.canaries: Canaries | None = None
        self.stored: StoredTurns | None = None
        """What fetches stored turns; None where the upstream is an app's own."""
        self.judgement = Judgement(Guard({}, self.events), self.events, self.tracing)

    async def __aenter__(self) -> Self:
        """Open the classifiers, put the policies into force, ask the canaries, and keep all of that fresh.

        Raises DocumentError for a configuration or policy that cannot be used, ClassifierError or ModelFileError for a classifier.
        """
        if self._publisher is not None:
            raise GuardrailError("this guard is running already; make a second one with open_guard()")
        async with AsyncExitStack() as stack:
            if self._close is not None:
                stack.push_async_callback(asyncio.to_thread, self._close)
            if self.recorder is not None:
                self.recorder.start()
                stack.push_async_callback(asyncio.to_thread, self.recorder.close)
            for name, opener in self._backends.classifiers.items():
                self._classifiers[name] = await stack.enter_async_context(opener())
            canaries = {name: canary_of(classifier, self._backends.canary) for name, classifier in self._classifiers.items()}
            held = {name: canary.policy for name, canary in canaries.items() if canary is not None}
            cache = cache_of(self.config)
            publisher = Publisher(self.config, self._classifiers, self.events, always=held, cache=cache)
            await publisher.publish()
            self.canaries = Canaries(self._classifiers, canaries, self.events)
            await self.canaries.ask()
            stop = asyncio.Event()
            breakers = self.breakers.classifiers
            guard = Guard(self._classifiers, self.events, self.recorder, cache=cache, breakers=breakers)
            self.judgement = Judgement(guard, self.events, self.tracing)
            self._ad_hoc = AdHocPolicies(self._classifiers, self._published)
            self._publisher = publisher
            for name, job in {"policies": publisher.watch(stop), "canaries": self.canaries.keep_asking()}.items():
                self._jobs[name] = task = asyncio.create_task(job)
                task.add_done_callback(_report)
                stack.push_async_callback(_end, task)
            stack.callback(stop.set)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Refuse what still comes, stop the watchers, close the classifiers."""
        self._publisher = None
        await self._ad_hoc.aclose()
        self._classifiers = {}
        await self._stack.aclose()

    @property
    def table(self) -> RouteTable | None:
        """The routes in force; None while the guard is not running."""
        return None if self._publisher is None else self._publisher.table

    @property
    def publisher(self) -> Publisher | None:
        """What keeps the policies fresh; None while the guard is not running."""
        return self._publisher

    @contextmanager
    def place(self) -> Iterator[None]:
        """One of the `max_in_flight` places, for the length of a `with`. Raises WireError (503) when all are taken."""
        if self._in_flight >= self.limits.max_in_flight:
            raise WireError(503, "overloaded", "Too many requests are being served; try again shortly.")
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    @contextmanager
    def admitted(self, tenant: str) -> Iterator[None]:
        """A request of a tenant, for the length of a `with`: counted by its quota, then given a place.

        Raises LimitError (429) for a tenant that has used up what it may ask for, before it takes a place of anyone else.
        """
        with self.quotas.entered(tenant), self.place():
            yield

    @property
    def in_flight(self) -> int:
        """How many requests are being served now."""
        return self._in_flight

    @property
    def classifier_ids(self) -> Mapping[str, str]:
        """What each running classifier calls itself, weights' digest included, by its name in the configuration."""
        return {name: classifier.id for name, classifier in self._classifiers.items()}

    @property
    def ended(self) -> list[str]:
        """Which of the jobs that keep a running guard fresh have ended: `policies`, `canaries`. None should."""
        return [name for name, task in self._jobs.items() if task.done()]

    async def check(
        self,
        text: str | Sequence[Part] | Answered,
        *,
        policies: Sequence[str | Policy] | None = None,
        stage: Stage = Stage.INPUT,
        route: str | None = None,
        tenant: str | None = None,
    ) -> Decision:
        """Judge one text (or parts) as a route would: the named one, else the tenant's first. `Answered` is an answer with its prompt.

        `policies` narrows it to these ids, or asks other policies instead; default: the route's own of that stage.
        Raises GuardrailError for an unknown route, tenant or policy, when the guard is not running, and for an answer without the prompt
        that a policy judges it with (`judge_with`).
        """
        stage = Stage.OUTPUT if isinstance(text, Answered) else stage
        tenant = tenant or self.config.tenant_names[0]
        chosen = self._route(route, tenant)
        if policies is not None:
            chosen = await self.narrowed(chosen, stage, policies, tenant=tenant)
        guard = self.judgement.guard
        if not isinstance(text, Answered):
            return await guard.check(text, route=chosen, stage=stage, tenant=tenant, origin=Origin())
        parts = (Part("text", text.answer, "assistant"),) if isinstance(text.answer, str) else tuple(text.answer)
        return await guard.decide(parts, Turn(chosen, stage, tenant, Origin(), time.monotonic(), context=text.prompt))

    async def narrowed(self, route: Route, stage: Stage, policies: Sequence[str | Policy], *, tenant: str) -> Route:
        """A route that asks these policies instead of its own in `stage`: the route's own check of each, or one with its threshold there.

        Raises GuardrailError for a policy that the tenant does not have, ClassifierError for one that the classifier cannot serve,
        or not have ready within the route's deadline.
        """
        known = self._publisher.sets.for_tenant(tenant) if self._publisher is not None else {}
        checks = tuple([await self._check(route, stage, _named(wanted, known), tenant) for wanted in policies])
        return replace(route, input=checks, output=checks)

    def unprepared(self, route: Route, policies: Sequence[str | Policy]) -> tuple[Policy, ...]:
        """Those of callers' own policies that `narrowed` would have to make ready first, which costs as much as reading a prompt."""
        own = (policy for policy in policies if isinstance(policy, Policy))
        return tuple(policy for policy in own if not all(self._ad_hoc.is_ready(name, policy) for name in _asked(route)))

    def target(self, route: Route, asked: Request, operation: str) -> Target | None:
        """What the upstream call of a route is in telemetry; None where nobody collects spans or metrics."""
        if self.tracing is None:
            return None
        endpoint = self._backends.endpoints.get(route.upstream, Endpoint("app"))
        return Target(asked.model, endpoint.provider, endpoint.server, operation, asked.document)

    def served(self, route: str, overhead_s: float) -> None:
        """Count one request that was answered, and the seconds that guarding added to it."""
        if self._metrics is not None:
            self._metrics.served(route, overhead_s)

    def _state(self) -> State | None:
        """How the guard is now; None while it is not running."""
        publisher = self._publisher
        if publisher is None:
            return None
        loads = {name: each.workload() for name, each in self._classifiers.items() if isinstance(each, SupportsWorkload)}
        waiting = self.recorder.workload().calls if isinstance(self.recorder, SupportsWorkload) else None
        return State(self._in_flight, publisher.generation, publisher.sets.short_digest, len(publisher.sets.distinct()), loads, waiting)

    def observe(self, call: UpstreamCall) -> None:
        """Count one finished upstream call."""
        if self._metrics is not None:
            self._metrics.upstream(call)

    def _route(self, name: str | None, tenant: str) -> Route:
        if self._publisher is None or self._publisher.table is None:
            raise GuardrailError("the guard is not running; use it inside `async with`")
        routes = self._publisher.table.for_tenant(tenant)
        if not routes:
            raise GuardrailError(f"tenant {tenant!r} is not in the configuration, or has no route")
        found = next((route for route in routes if name in (None, route.name)), None)
        if found is None:
            raise GuardrailError(
                f"tenant {tenant!r} has no route {name!r}; it has {', '.join(dict.fromkeys(route.name for route in routes))}"
            )
        return found

    async def _check(self, route: Route, stage: Stage, policy: Policy, tenant: str) -> Check:
        """The route's own check of a policy, or one with the policy's own threshold of the stage."""
        for check in route.checks(stage):
            if check.policy is policy:
                return check
        for name in _asked(route):
            await self._ad_hoc.prepare(name, policy, tenant=tenant, within_s=route.deadline_s)
        return Check(policy, policy.threshold_at(stage))

    def _published(self, classifier: str) -> tuple[Sequence[Policy], int]:
        """What a classifier holds whatever else it is asked about, and the number of its generation."""
        return ((), 0) if self._publisher is None else (self._publisher.resident(classifier), self._publisher.generation)


def _asked(route: Route) -> set[str]:
    return {route.classifier, route.escalation.classifier if route.escalation else route.classifier}


def _named(wanted: str | Policy, known: Mapping[str, Policy]) -> Policy:
    if isinstance(wanted, Policy):
        return wanted
    if wanted not in known:
        raise GuardrailError(f"there is no policy {wanted!r}; there are {', '.join(known)}")
    return known[wanted]


def limits_of(config: Config) -> Limits:
    """The bounds a configuration sets. The largest answer any of its upstreams may give bounds what is held."""
    server = config.server
    answers = [size for upstream in config.upstreams.values() if (size := getattr(upstream, "max_answer_bytes", None))]
    return Limits(server.max_body_bytes, server.max_in_flight, server.client_timeout_s, max(answers, default=Limits().max_answer_bytes))


def cache_of(config: Config) -> VerdictCache | None:
    """What remembers scores; None where the configuration says that nothing does."""
    section = config.cache
    return VerdictCache(entries=section.entries, size=section.bytes, max_age_s=section.max_age_s) if section.entries else None


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))


def _report(task: asyncio.Task[None]) -> None:
    """A watcher that ends by itself must be noticed: policies or canaries would go stale in silence."""
    if not task.cancelled() and task.exception() is not None:
        logger.error("a background task of the guard ended", exc_info=task.exception())
