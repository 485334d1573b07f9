"""The configuration file as immutable values. The descriptions here are the ones of the JSON Schema (`guardrail config schema`)."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, PrivateAttr, Tag, model_validator

from guardrail.config.audit import AuditConfig, RouteAuditConfig
from guardrail.config.backends import ClassifierConfig, EmbeddedClassifier, EmbeddedUpstream, UpstreamConfig
from guardrail.config.breakers import BreakersConfig
from guardrail.config.console import ConsoleConfig
from guardrail.config.document import Source
from guardrail.config.fields import Folder, Items, KeyHash, Name, Named, Section, TenantRef
from guardrail.config.limits import LimitsConfig
from guardrail.config.normalize import NormalizeConfig, NormalizeSetting
from guardrail.config.prometheus import PrometheusConfig
from guardrail.config.streaming import StreamConfig
from guardrail.types import Stage

CHAT_COMPLETIONS = "/v1/chat/completions"
GUARDED_PATHS = (CHAT_COMPLETIONS, "/v1/completions", "/v1/embeddings", "/v1/messages", "/v1/responses")
"""The inference paths this version understands; every other one is answered 404."""
CONVERSATIONS = (CHAT_COMPLETIONS, "/v1/messages", "/v1/responses")
"""Those whose requests have turns."""

STREAMED_PATHS = tuple(path for path in GUARDED_PATHS if path != "/v1/embeddings")
"""Those of them whose answers may be streamed."""

DEFAULT_TENANT = "default"
"""The only tenant where none is configured."""

ANY = "*"
MAX_GLOB = 128


class ServerConfig(Section):
    """Where the proxy listens, and what it takes at most."""

    host: str = Field(default="127.0.0.1", min_length=1, max_length=255, description="Address to listen on.")
    port: int = Field(default=8080, ge=0, le=65_535, description="Port to listen on; 0 takes any free one.")
    max_body_bytes: int = Field(
        default=10_485_760, ge=1_024, le=1_073_741_824, description="Largest request body, in bytes; more is answered 413."
    )
    max_in_flight: int = Field(default=256, ge=1, le=65_536, description="Most requests served at once; more are answered 503.")
    client_timeout_s: float = Field(
        default=120.0, ge=1, le=3_600, description="Longest wait for a client to send or take bytes, in seconds."
    )
    limits: LimitsConfig = Field(default_factory=LimitsConfig, description="What each tenant may ask for, where its own limits do not say.")


class PoliciesConfig(Section):
    """Where policies come from."""

    folder: Folder | None = Field(
        default=None, description="Folder of your own policies, relative to this file. One with the id of a shipped policy replaces it."
    )
    shipped: bool = Field(default=True, description="Whether the policies that come with the package are used too.")


class TenantConfig(Section):
    """One caller: the keys it calls with, and its own policies."""

    api_keys: Items[KeyHash] = Field(
        default=(), description="Hashes of the tenant's API keys, made with `guardrail config hash-key`. Never the keys."
    )
    policies: Folder | None = Field(
        default=None,
        description="Folder of the tenant's policies, relative to this file. They add to the others, or replace one of the same id.",
    )
    limits: LimitsConfig = Field(default_factory=LimitsConfig, description="What it may ask for; each key stands over the server's.")


class PolicyUse(Section):
    """One policy as a route uses it. A bare policy id means the same with every default."""

    id: str = Field(description="Id of the policy.", min_length=1, max_length=64)
    threshold: float | None = Field(
        default=None, ge=0, le=1, description="Score from which a text violates; default: the policy's own threshold."
    )
    action: Literal["block", "redact", "annotate", "pass"] = Field(
        default="block",
        description="What a violation leads to; the strongest of several wins. `redact` (answers only): what violates is taken out.",
    )
    mode: Literal["enforce", "shadow"] | None = Field(
        default=None, description="`shadow` decides and records only; default: the route's mode."
    )
    candidate: str | None = Field(
        default=None,
        min_length=1,
        max_length=1_024,
        description="A version on trial, which only records beside the policy: its file (ending in .md, relative to this file), or an id.",
    )

    @property
    def candidate_file(self) -> str | None:
        """The file of the version on trial, as written; None where there is none, or a policy's id stands for it."""
        return self.candidate if self.candidate is not None and self.candidate.endswith(".md") else None

    @model_validator(mode="before")
    @classmethod
    def _from_id(cls, value: Any) -> Any:
        return {"id": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "description": "Id of the policy."}, handler.resolve_ref_schema(handler(core_schema))]}


def _all_or_list(value: Any) -> str:
    return "all" if isinstance(value, str) else "list"


class StageConfig(Section):
    """What is checked in one stage."""

    policies: Annotated[Annotated[Literal["all"], Tag("all")] | Annotated[Items[PolicyUse], Tag("list")], Discriminator(_all_or_list)] = (
        Field(
            default="all", description="`all`: every policy of the tenant that applies to this stage; or a list of them; [] checks nothing."
        )
    )


class EscalateConfig(Section):
    """Doubtful scores are asked again, of a better and slower classifier."""

    classifier: Name = Field(description="Classifier whose answer replaces a doubtful one.")
    low: float = Field(ge=0, le=1, description="Lowest doubtful score.")
    high: float = Field(ge=0, le=1, description="Highest doubtful score.")

    @model_validator(mode="after")
    def _in_order(self) -> "EscalateConfig":
        if self.low > self.high:
            raise ValueError(f"the band from low {self.low} to high {self.high} is empty; low must not be above high")
        return self


def _optional_backends(schema: dict[str, Any]) -> None:
    """A file may leave them out where there is one to choose from."""
    schema["required"] = [key for key in schema["required"] if key not in ("upstream", "classifier")]


class RouteConfig(Section):
    """Which exchanges it is for (path, model, tenant), and what happens to them. The first route that matches wins."""

    model_config = ConfigDict(json_schema_extra=_optional_backends)

    name: Name = Field(description="Name in records, metrics and messages; unique.")
    path: str = Field(default=ANY, max_length=256, description=f"Exact path, one of: {', '.join(GUARDED_PATHS)}; or * for each of them.")
    model: str = Field(default=ANY, min_length=1, max_length=MAX_GLOB, description="Glob (* ? [abc]) on the requested model; case counts.")
    tenant: TenantRef = Field(default=ANY, description="Tenant it is for; * is for each of them, with the tenant's own policies.")
    upstream: Name = Field(description="Upstream that answers; may be left out where there is only one.")
    classifier: Name = Field(description="Classifier that judges; may be left out where there is only one.")
    escalate: EscalateConfig | None = Field(default=None, description="Who is asked again about doubtful scores; default: nobody.")
    input: StageConfig = Field(default_factory=StageConfig, description="What prompts are checked for.")
    output: StageConfig = Field(default_factory=StageConfig, description="What answers are checked for.")
    mode: Literal["enforce", "shadow"] = Field(default="enforce", description="`shadow` decides and records, and changes nothing.")
    on_error: Literal["block", "pass"] = Field(default="block", description="What happens to a text that could not be judged.")
    unscannable: Literal["block", "pass"] = Field(
        default="block", description="What happens to a part that is not text (image, audio, token ids)."
    )
    deadline_ms: int = Field(default=5_000, ge=10, le=60_000, description="Longest time to judge one stage, in milliseconds.")
    timing: Literal["before", "parallel"] = Field(
        default="before", description="Whether the prompt is judged before the upstream is called, or beside it."
    )
    normalize: NormalizeSetting = Field(
        default_factory=NormalizeConfig,
        description="How far disguised text is read as what it says; `off` judges texts as they stand alone.",
    )
    stream: StreamConfig = Field(default_factory=StreamConfig, description="When a streamed answer is let out.")
    audit: RouteAuditConfig = Field(default_factory=RouteAuditConfig, description="How its decisions are kept in the audit store.")
    scope: Literal["all", "each", "latest_turn"] = Field(
        default="all",
        description=(
            "Turns of a conversation that are judged: all of them, or what came after the assistant's last message (and system messages), "
            "and what the user said in several of them as one text, too; `each` judges all, and none together."
        ),
    )
    history: Literal["block", "redact", "drop"] = Field(
        default="block",
        description=(
            "What is done where only turns before the latest violate: the request is blocked, their texts are replaced by placeholders, or "
            "the turns are left out."
        ),
    )
    on_block: Literal["error", "reply"] = Field(
        default="error", description="A block is status 400, or 200 with finish_reason content_filter."
    )
    stored_turns: Literal["refuse", "resolve"] = Field(
        default="refuse",
        description="What previous_response_id gets: a refusal, or the stored turns are fetched of the upstream and judged, too.",
    )

    definitions: Literal["judge", "trust"] = Field(
        default="judge",
        description=(
            "Whether what tool definitions and schemas of answers say is judged, since a model reads it; `trust`: it is not, because no "
            "client can write them."
        ),
    )

    @property
    def paths(self) -> tuple[str, ...]:
        """The exact paths it is for."""
        return GUARDED_PATHS if self.path == ANY else (self.path,)

    def stage(self, stage: Stage) -> StageConfig:
        """The settings of one stage."""
        return self.input if stage is Stage.INPUT else self.output


class CacheConfig(Section):
    """Scores that were given already and are not asked for again: the unchanged beginning of a conversation costs nothing."""

    entries: int = Field(default=50_000, ge=0, le=10_000_000, description="Most scores remembered, in each process; 0 remembers none.")
    bytes: int = Field(default=67_108_864, ge=65_536, le=68_719_476_736, description="Memory that they may take, about, in bytes.")
    max_age_s: float = Field(
        default=3_600.0, ge=1, le=604_800, description="Seconds after which a score is asked for again: a server's model may have changed."
    )


class TelemetryConfig(Section):
    """How decisions appear in OpenTelemetry and for Prometheus. OTLP exporters are set with the OTEL_* variables."""

    semconv: Literal["v427", "guardian", "none"] = Field(
        default="v427", description="Which names guardrail spans carry; `none` adds none of them."
    )
    debug: bool = Field(default=False, description="A result event on the span for every policy, not only for those that fired or erred.")
    service_name: str = Field(default="guardrail", min_length=1, max_length=128, description="service.name of the resource.")
    prometheus: PrometheusConfig = Field(default_factory=PrometheusConfig, description="Metrics for Prometheus to fetch.")


class Config(Section):
    """The whole configuration. Every section may be left out; an empty file guards with all shipped policies."""

    server: ServerConfig = Field(default_factory=ServerConfig, description="Where the proxy listens, and its bounds.")
    policies: PoliciesConfig = Field(default_factory=PoliciesConfig, description="Which policies there are, and where they lie.")
    upstreams: Named[UpstreamConfig] = Field(
        default_factory=lambda: MappingProxyType({"embedded": EmbeddedUpstream()}), description="The guarded APIs, by name."
    )
    classifiers: Named[ClassifierConfig] = Field(
        default_factory=lambda: MappingProxyType({"embedded": EmbeddedClassifier()}), description="What judges, by name."
    )
    tenants: Named[TenantConfig] = Field(
        default_factory=lambda: MappingProxyType({}), description=f"The callers, by name; without any, all are {DEFAULT_TENANT!r}."
    )
    routes: Items[RouteConfig] = Field(
        default_factory=lambda: (RouteConfig(name="default", upstream="embedded", classifier="embedded"),),
        description="What is guarded, and how; the first match wins. Default: one route for everything.",
    )
    breakers: BreakersConfig = Field(default_factory=BreakersConfig, description="When what fails is left alone for a while.")
    telemetry: TelemetryConfig = Field(default_factory=TelemetryConfig, description="How decisions appear in OpenTelemetry.")
    cache: CacheConfig = Field(default_factory=CacheConfig, description="Scores that are not asked for twice, by the same tenant.")
    console: ConsoleConfig | None = Field(default=None, description="Web pages for operators at /console; default: none.")

    audit: AuditConfig | None = Field(default=None, description="Where decisions are kept; default: nowhere but in the log.")

    _source: Source = PrivateAttr(default_factory=Source)

    @model_validator(mode="before")
    @classmethod
    def _fill_routes(cls, value: Any) -> Any:
        """A route need not name the only upstream or classifier, and no route at all is one for everything."""
        if not isinstance(value, Mapping):
            return value
        defaults: dict[str, Any] = {}
        for section, key in (("upstreams", "upstream"), ("classifiers", "classifier")):
            names = value.get(section, {"embedded": None})
            if isinstance(names, Mapping) and len(names) == 1:
                defaults[key] = next(iter(names))
        routes = value.get("routes", [{"name": "default"}])
        if not isinstance(routes, list | tuple):
            return value
        return {**value, "routes": [{**defaults, **route} if isinstance(route, Mapping) else route for route in routes]}

    def model_post_init(self, context: Any, /) -> None:
        """Remember where the values stand, for findings."""
        if isinstance(context, Source):
            self._source = context

    @property
    def source(self) -> Source:
        """Where the values stand: the path and the line of each."""
        return self._source

    @property
    def tenant_names(self) -> tuple[str, ...]:
        """Every tenant a request can belong to, in file order; `default` alone where none is configured."""
        return tuple(self.tenants) or (DEFAULT_TENANT,)

    def limits_of(self, tenant: str) -> LimitsConfig:
        """What a tenant may ask for: its own limits over the server's."""
        own = self.tenants.get(tenant)
        return self.server.limits if own is None else own.limits.over(self.server.limits)

    def tenants_of(self, route: RouteConfig) -> tuple[str, ...]:
        """The tenants a route is for; none where it names one that does not exist."""
        return tuple(name for name in self.tenant_names if route.tenant in (ANY, name))

    @property
    def policy_folder(self) -> Path | None:
        """The operator's own policy folder, relative paths resolved against the configuration file's folder."""
        return self._resolved(self.policies.folder)

    @property
    def tenant_folders(self) -> Mapping[str, Path]:
        """The policy folder of each tenant that has one, resolved likewise."""
        folders = {name: self._resolved(tenant.policies) for name, tenant in self.tenants.items()}
        return {name: folder for name, folder in folders.items() if folder is not None}

    @property
    def audit_path(self) -> Path | None:
        """The audit store's file, resolved likewise; None where none is configured."""
        return None if self.audit is None else self._resolved(self.audit.path)

    @property
    def candidates(self) -> Mapping[str, Path]:
        """The files of versions on trial as written, resolved likewise."""
        stages = [route.stage(stage).policies for route in self.routes for stage in Stage]
        written = [use.candidate_file for policies in stages if policies != "all" for use in policies]
        return {name: self._source.folder / name for name in written if name is not None}

    def _resolved(self, folder: str | None) -> Path | None:
        return None if folder is None else self._source.folder / folder
