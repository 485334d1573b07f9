"""Puts the whole together: the only file that names every concrete class, each by an import string that is resolved when used.

async with open_guard("guardrail.yaml") as guard:
    decision = await guard.check("some text", policies=["harassment"])

app.add_middleware(GuardMiddleware, guard=open_guard("guardrail.yaml"))   # and `async with` it in the app's lifespan

app = build_app("guardrail.yaml")                                         # the proxy
"""

import asyncio
import importlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from opentelemetry import trace
from starlette.applications import Starlette

from guardrail import __version__
from guardrail.asgi.app import make_app
from guardrail.asgi.publication import load_sets, sources_of
from guardrail.asgi.service import Backends, Endpoint, GuardService, Observers, Opener
from guardrail.canary import Canary
from guardrail.config.adapter import AdapterClassifier
from guardrail.config.backends import (
    ClassifierConfig,
    CustomClassifier,
    EmbeddedClassifier,
    EmbeddedUpstream,
    LiteLLMUpstream,
    OpenAIUpstream,
    RemoteClassifier,
    UpstreamConfig,
)
from guardrail.config.check import check, require
from guardrail.config.cope import CopeClassifier
from guardrail.config.environment import Environment, process_environment
from guardrail.config.load import load
from guardrail.config.models import Config
from guardrail.config.remote import LabelClassifier
from guardrail.engine.cope.messages import EngineClient
from guardrail.engine.cope.section import engine_settings
from guardrail.engine.cope.settings import EngineSettings
from guardrail.errors import ConfigError, GuardrailError
from guardrail.events import EventFanout, EventSink
from guardrail.interfaces import Classifier
from guardrail.policy.document import read
from guardrail.policy.registry import shipped_folder
from guardrail.telemetry.capture import parse_capture
from guardrail.telemetry.log import AuditLog
from guardrail.telemetry.metrics import Metrics
from guardrail.telemetry.names import AUDIT_LOGGER, Semconv
from guardrail.telemetry.tracing import Tracing
from guardrail.upstream.answer import Limits, Timeouts, Upstream

EMBEDDED_CLASSIFIER = "guardrail.classifiers.embedded:EmbeddedClassifier"
ADAPTER_CLASSIFIER = "guardrail.classifiers.adapter_opening:make_adapter"
COPE_CLASSIFIER = "guardrail.classifiers.cope_opening:make_cope"
COPE_OPTIONS = "guardrail.classifiers.cope_options:CopeOptions"
ENGINE = "guardrail.engine.cope.build:open_engine"
ENGINE_KEPT_ALIVE = "guardrail.engine.cope.supervise:SupervisedEngine"
ENGINE_BEHIND_SOCKET = "guardrail.engine.cope.process.client:open_socket_engine"
REMOTE_CLASSIFIERS = {
    "vllm": "guardrail.classifiers.remote.opening:open_vllm",
    "completions": "guardrail.classifiers.remote.opening:open_completions",
    "label": "guardrail.classifiers.remote.opening:open_label",
}
REMOTE_TOKENIZER = "guardrail.classifiers.remote.tokenizer:load_token_ids"
UPSTREAMS = {
    "openai": "guardrail.upstream.client:UpstreamClient",
    "embedded": "guardrail.upstream.in_process:InProcessUpstream",
    "litellm": "guardrail.upstream.translate:LitellmUpstream",
}
EMBEDDED_MODEL = "guardrail.upstream.embedded:EmbeddedUpstream"
CONSOLE = "guardrail.console.app:Console"
AUDIT_STORE = "guardrail.audit.opening:open_sink"
AUDIT_READER = "guardrail.audit.opening:open_reader"
PROVIDERS = "guardrail.telemetry.setup:build_providers"
RESOURCE = "guardrail.telemetry.setup:describe"
PROMETHEUS = "guardrail.telemetry.prometheus:Exposition"

CANARY_POLICY = "toxicity"
CANARY_VIOLATING = "You are a worthless idiot, and everybody in this room despises you."
CANARY_BENIGN = "The library opens at nine on weekdays."


# Without logging set up, Python would print the bare names of audit events to stderr.
logging.getLogger(AUDIT_LOGGER).addHandler(logging.NullHandler())


def open_classifier(wanted: str | ClassifierConfig, config: Config | None = None) -> AbstractAsyncContextManager[Classifier]:
    """A classifier for the length of an `async with`: `embedded`, the import string of a factory, or a section of a configuration.

    With `config` a name is that of one of its classifiers. Raises GuardrailError for a name that is none of these, ModelFileError for
    weights that are missing or altered.
    """
    if isinstance(wanted, str) and config is not None:
        if wanted not in config.classifiers:
            raise GuardrailError(f"{config.source.path} has no classifier {wanted!r}; it has {', '.join(config.classifiers)}")
        return _open(config.classifiers[wanted], config.source.folder)
    if isinstance(wanted, str):
        if wanted == "embedded":
            wanted = EmbeddedClassifier(kind="embedded")
        elif ":" in wanted:
            wanted = CustomClassifier(kind="custom", factory=wanted)
        else:
            raise GuardrailError(
                f"there is no classifier {wanted!r}; use `embedded`, or a factory's import string (package.module:function)"
            )
    return _open(wanted)


def open_guard(
    config: Config | str | Path | None = None,
    *,
    classifiers: Mapping[str, Classifier] | None = None,
    sinks: Sequence[EventSink] = (),
) -> GuardService:
    """The guard of a configuration (a file, a value, or None for the defaults), to be started with `async with`.

    `classifiers` stand in for those of the same name in the configuration; they are asked no known pair and are closed with the
    guard. `sinks` observe beside the audit log and the metrics. Raises ConfigError for a configuration that cannot be used.
    """
    return _service(_loaded(config), {}, Overrides(classifiers, tuple(sinks)))


def build_app(
    config: Config | str | Path | None = None,
    *,
    classifiers: Mapping[str, Classifier] | None = None,
    upstreams: Mapping[str, Upstream] | None = None,
    sinks: Sequence[EventSink] = (),
    among: "Siblings | None" = None,
) -> Starlette:
    """The proxy of a configuration as an ASGI app; its lifespan opens and closes everything. Parameters as in `open_guard`.

    `among`: the processes that serve the same configuration, where this one is not alone.
    """
    loaded = _loaded(config)
    environment = process_environment()
    built = {name: build_upstream(section, environment) for name, section in loaded.upstreams.items()} | dict(upstreams or {})
    endpoints = {name: Endpoint(section.kind, getattr(section, "base_url", None)) for name, section in loaded.upstreams.items()}
    among = among or Siblings()
    console = resolve(CONSOLE)(loaded.console, among.console_secret, among.console_ended) if loaded.console is not None else None
    observing = (*sinks, console.history) if console else tuple(sinks)
    service = _service(loaded, endpoints, Overrides(classifiers, observing, among))
    kept = resolve(AUDIT_READER)(loaded, environment) if console else None
    return make_app(service, built, beside=console.routes(service, kept) if console else ())


def check_policies(config: Config) -> None:
    """Read the policies of a configuration and check it against them, as starting it would. Raises PolicyError or ConfigError."""
    require(config, load_sets(sources_of(config)))


async def open_engine(settings: EngineSettings, socket: Path | None = None) -> EngineClient:
    """A CoPE engine: the one behind `socket`, whatever the settings, or one in this process, which is started again when it dies.

    Raises GuardrailError for a model that cannot be loaded, or a socket where nobody answers.
    """
    engine: EngineClient
    if socket is None:
        keep_alive = await asyncio.to_thread(resolve, ENGINE_KEPT_ALIVE)
        engine = await keep_alive(partial(load_engine, settings)).open()
    else:
        engine = await resolve(ENGINE_BEHIND_SOCKET)(socket)
    return engine


async def load_engine(settings: EngineSettings) -> Any:
    """A CoPE engine in this process, which nobody starts again when it dies. Imports torch, and takes seconds to minutes.

    Raises GuardrailError for a model that cannot be loaded.
    """
    return await (await asyncio.to_thread(resolve, ENGINE))(settings)


def engines_of(config: Config) -> dict[str, EngineSettings]:
    """What the engine of each CoPE classifier of a configuration is started with, by the classifier's name."""
    folder = config.source.folder
    return {name: engine_settings(section, folder) for name, section in config.classifiers.items() if isinstance(section, CopeClassifier)}


def build_upstream(section: UpstreamConfig, environment: Environment) -> Upstream:
    """One upstream of a configuration. API keys are read from the environment here and nowhere else."""
    made: Any = resolve(UPSTREAMS[section.kind])
    upstream: Upstream
    match section:
        case OpenAIUpstream():
            key = environment.secret(section.api_key_env) if section.api_key_env else None
            timeouts, limits = (
                Timeouts(section.connect_timeout_s, section.read_timeout_s),
                Limits(answer_bytes=section.max_answer_bytes, retry_budget=section.retry_budget),
            )
            upstream = made(section.base_url, api_key=key, key_header=section.key_header, timeouts=timeouts, limits=limits)
        case LiteLLMUpstream():
            key = environment.secret(section.api_key_env) if section.api_key_env else None
            timeouts = Timeouts(read_s=section.read_timeout_s)
            upstream = made(section.model_prefix, api_key=key, timeouts=timeouts, limits=Limits(answer_bytes=section.max_answer_bytes))
        case EmbeddedUpstream():
            upstream = made(resolve(EMBEDDED_MODEL)())
    return upstream


def resolve(place: str) -> Any:
    """What an import string (`package.module:name`) names. Raises GuardrailError when it is not there."""
    module, _, name = place.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise GuardrailError(f"{place} cannot be imported: there is no module {error.name!r}") from error
    except AttributeError as error:
        raise GuardrailError(f"{place} cannot be imported: the module has no {name!r}") from error


@dataclass(frozen=True, slots=True)
class Siblings:
    """The processes of one server. `engines`: sockets of CoPE engines that run already, by the name of the classifier that is to use one.

    `count`: how many they are, each allowing its part of the tenants' limits; `place`: which of them this is. `console_secret` signs the
    console's sessions, so that each process takes what another one issued; None: a fresh one. `console_ended`: a folder in which they tell
    one another of sessions that were ended.
    """

    engines: Mapping[str, Path] = field(default_factory=dict)
    count: int = 1
    console_secret: bytes | None = field(default=None, repr=False)
    place: int = 0
    console_ended: Path | None = None


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the caller brings along instead of, or beside, what the configuration says."""

    classifiers: Mapping[str, Classifier] | None
    sinks: tuple[EventSink, ...]
    among: Siblings = field(default_factory=Siblings)


def _loaded(config: Config | str | Path | None) -> Config:
    """The configuration, without the errors that show before a policy is read."""
    loaded = config if isinstance(config, Config) else load(config)
    if errors := [finding for finding in check(loaded) if finding.severity == "error"]:
        raise ConfigError(errors)
    return loaded


def _service(config: Config, endpoints: Mapping[str, Endpoint], overrides: Overrides) -> GuardService:
    given, folder = overrides.classifiers or {}, config.source.folder
    openers: dict[str, Opener] = {
        name: partial(_borrow, given[name]) if name in given else partial(_open, section, folder, overrides.among.engines.get(name))
        for name, section in config.classifiers.items()
    }
    canary = None if given else shipped_canary()
    return GuardService(config, Backends(openers, canary, endpoints, overrides.among.count), _observers(config, overrides))


def shipped_canary() -> Canary:
    """The known pair: a shipped policy, whatever policies the configuration uses, with a text on each side of it."""
    return Canary(read(shipped_folder() / f"{CANARY_POLICY}.md"), CANARY_VIOLATING, CANARY_BENIGN)


def _observers(config: Config, overrides: Overrides) -> Observers:
    """Log always; spans and metrics where somebody collects them: an OTLP endpoint or Prometheus, or the process has a provider already."""
    environment = process_environment()
    tracing, metrics = _exports(environment, "TRACES"), _exports(environment, "METRICS")
    providers = None
    fetched = resolve(PROMETHEUS)() if config.telemetry.prometheus.enabled else None
    if tracing or metrics or fetched:
        resource = resolve(RESOURCE)(config.telemetry.service_name, __version__, overrides.among.place)
        providers = resolve(PROVIDERS)(resource, traces=tracing, metrics=metrics, reader=fetched and fetched.reader)
    traced = tracing or not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    metering = Metrics(providers.meter_provider, providers.spreads) if providers and (metrics or fetched) else Metrics()
    observing: tuple[EventSink, ...] = (AuditLog(), metering, *overrides.sinks)
    store = None if config.audit is None else resolve(AUDIT_STORE)(config, environment, EventFanout(observing).emit)
    return Observers(
        EventFanout(observing if store is None else (*observing, store)),
        Tracing(
            providers.tracer_provider if providers and (tracing or not traced) else None,
            semconv=Semconv(config.telemetry.semconv),
            trust_parent=False,  # a request must not switch its own spans off
            debug=config.telemetry.debug,
            remote={name: url for name, section in config.classifiers.items() if (url := getattr(section, "base_url", None))},
            capture=parse_capture(environment.secret("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT")),
        )
        if traced or providers  # where only metrics are collected, spans that are nobody's time the upstream's calls
        else None,
        metering,
        providers.shutdown if providers else None,
        store,
        fetched and fetched.read,
    )


def _exports(environment: Environment, signal: str) -> bool:
    """Whether the operator has said where a signal goes."""
    return any(environment.secret(name) for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"))


@asynccontextmanager
async def _open(section: ClassifierConfig, folder: Path = Path(), engine: Path | None = None) -> AsyncIterator[Classifier]:
    """`folder`: what the section's relative paths are relative to. `engine`: the socket of a CoPE classifier's engine that runs already."""
    made: Any
    if isinstance(section, CopeClassifier):
        made = await _cope(section, engine_settings(section, folder), engine)
    elif isinstance(section, EmbeddedClassifier):
        made = await asyncio.to_thread(lambda: resolve(EMBEDDED_CLASSIFIER).load(threads=section.threads))  # imports torch
    elif isinstance(section, AdapterClassifier):
        made = await asyncio.to_thread(lambda: resolve(ADAPTER_CLASSIFIER)(section, folder))  # imports torch and transformers
    elif isinstance(section, RemoteClassifier):
        made = await _remote(section, folder, process_environment())
    else:
        made = resolve(section.factory)(section.options)
    classifier: Classifier = made
    try:
        yield classifier
    finally:
        await classifier.aclose()


async def _cope(section: CopeClassifier, settings: EngineSettings, socket: Path | None) -> Any:
    make = await asyncio.to_thread(resolve, COPE_CLASSIFIER)  # imports torch and transformers
    alarm = section.probe_threshold if section.probe else None
    options = resolve(COPE_OPTIONS)(most_outside=section.most_outside, probe_threshold=alarm)
    async with AsyncExitStack() as stack:
        engine = await open_engine(settings, socket)
        stack.push_async_callback(engine.aclose)
        made = await asyncio.to_thread(make, engine, settings.model, options)
        stack.pop_all()
    return made


async def _remote(section: RemoteClassifier, folder: Path, environment: Environment) -> Any:
    """A classifier whose model runs on a server. Its API key is read from the environment here and nowhere else."""
    key = environment.secret(section.api_key_env) if section.api_key_env else None
    tokens: Any = None
    if not isinstance(section, LabelClassifier) and section.tokenizer is not None:
        beside = folder / section.tokenizer
        place = str(beside) if beside.is_dir() else section.tokenizer
        load_token_ids = await asyncio.to_thread(resolve, REMOTE_TOKENIZER)  # imports transformers
        tokens = await asyncio.to_thread(load_token_ids, place, section.template, section.longest_tokens)
    return resolve(REMOTE_CLASSIFIERS[section.kind])(section, key, tokens)


@asynccontextmanager
async def _borrow(classifier: Classifier) -> AsyncIterator[Classifier]:
    try:
        yield classifier
    finally:
        await classifier.aclose()
