"""Which route an exchange takes. A table is compiled once for each published generation of policies and never changes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import translate
from types import MappingProxyType

from guardrail.config.catalog import PolicySource, on_trial, uses
from guardrail.config.models import Config, RouteConfig
from guardrail.config.normalize import limits_of
from guardrail.config.references import policy_findings
from guardrail.errors import ConfigError
from guardrail.types import Action, Audit, Check, Escalation, Fallback, Mode, Policy, Route, Stage, Streaming, StreamMode

MAX_MODEL_CHARS = 256
"""Longest model name that is matched; a longer one has no route."""


@dataclass(frozen=True, slots=True)
class RouteTable:
    """The routes of every tenant, in order, with their policies pinned; immutable and safe to share."""

    generation: int
    _entries: Mapping[str, tuple[tuple[re.Pattern[str], Route], ...]]

    def match(self, path: str, model: str, tenant: str) -> Route | None:
        """The first route that matches, or None: then the exchange is refused, never forwarded.

        `path` is compared exactly, character by character: no case folding, decoding, dot segments, doubled or trailing slashes.
        `model` is what the client asked for, compared with the route's glob, case included.
        """
        if len(model) > MAX_MODEL_CHARS:
            return None
        for pattern, route in self._entries.get(tenant, ()):
            if route.path == path and pattern.match(model):
                return route
        return None

    @property
    def tenants(self) -> tuple[str, ...]:
        """Every tenant the table knows."""
        return tuple(self._entries)

    def for_tenant(self, tenant: str) -> tuple[Route, ...]:
        """One tenant's routes in order, once for each path that it is for; none for an unknown tenant."""
        return tuple(route for _, route in self._entries.get(tenant, ()))

    def policies_of(self, classifier: str) -> tuple[Policy, ...]:
        """Every policy that the named classifier is asked about, each once: what it must prepare before this table is used."""
        every = (route for tenant in self.tenants for route in self.for_tenant(tenant))
        routes = (route for route in every if classifier in (route.classifier, route.escalation and route.escalation.classifier))
        policies = (check.policy for route in routes for check in (*route.input, *route.output))
        return tuple({policy.key: policy for policy in policies}.values())


def compile(config: Config, policy_sets: PolicySource, generation: int, digest: str = "") -> RouteTable:  # noqa: A001 (as re.compile)
    """The table of a configuration that `check` accepts, with the policies of one generation; `digest` is of all of them.

    A route for every tenant is compiled once for each, with that tenant's own policies. Raises ConfigError when a policy that a
    route names is not there or does not apply: the caller keeps the table it has.
    """
    if errors := [finding for finding in policy_findings(config, policy_sets) if finding.severity == "error"]:
        raise ConfigError(errors)
    entries = {}
    for tenant in config.tenant_names:
        known, tried = policy_sets.for_tenant(tenant), policy_sets.candidates
        routes = [route for route in config.routes if tenant in config.tenants_of(route)]
        entries[tenant] = tuple(
            (re.compile(translate(route.model)), replace(compiled, path=path, policy_set=digest))
            for route, compiled in [(route, _route(route, (known, tried), generation)) for route in routes]
            for path in route.paths
        )
    return RouteTable(generation, MappingProxyType(entries))


_Known = tuple[Mapping[str, Policy], Mapping[str, Policy]]
"""A tenant's policies by id, and the versions on trial by file."""


def _route(route: RouteConfig, known: _Known, generation: int) -> Route:
    band = route.escalate
    return Route(
        name=route.name,
        path=route.path,
        model=route.model,
        tenant=route.tenant,
        upstream=route.upstream,
        classifier=route.classifier,
        input=_checks(route, Stage.INPUT, known),
        output=_checks(route, Stage.OUTPUT, known),
        on_error=Fallback(route.on_error),
        unscannable=Fallback(route.unscannable),
        deadline_s=route.deadline_ms / 1_000,
        timing=route.timing,
        streaming=Streaming(StreamMode(route.stream.mode), route.stream.window, route.stream.overlap, route.stream.first_ms / 1_000),
        on_block=route.on_block,
        stored_turns=route.stored_turns,
        definitions=route.definitions,
        scope=route.scope,
        history=route.history,
        escalation=None if band is None else Escalation(band.classifier, band.low, band.high),
        generation=generation,
        normalize=limits_of(route.normalize),
        audit=Audit(route.audit.content, wait=route.audit.when_full == "wait"),
    )


def _checks(route: RouteConfig, stage: Stage, known: _Known) -> tuple[Check, ...]:
    """The policies as the route uses them in a stage, each with its version on trial (in shadow) behind it."""
    found = []
    for use in uses(stage, route.stage(stage), known[0]):
        versions = [(known[0][use.id], Mode(use.mode or route.mode))]
        if (tried := on_trial(use, *known)) is not None:
            versions.append((tried, Mode.SHADOW))
        for policy, mode in versions:  # one on trial has the threshold that it would have in the other's place
            threshold = policy.threshold_at(stage) if use.threshold is None else use.threshold
            found.append(Check(policy, threshold, Action[use.action.upper()], mode))
    return tuple(found)
