"""What a well-formed configuration still gets wrong: names, reach, settings that cannot be enforced, and surroundings."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from guardrail.config.adapter import AdapterClassifier
from guardrail.config.audit_check import audit_findings
from guardrail.config.backends import CustomClassifier, LiteLLMUpstream, OpenAIUpstream, RemoteClassifier
from guardrail.config.catalog import PolicySource
from guardrail.config.codes import Code
from guardrail.config.cope import CopeClassifier
from guardrail.config.environment import Environment, process_environment
from guardrail.config.models import ANY, CONVERSATIONS, STREAMED_PATHS, Config
from guardrail.config.normalize import OFF
from guardrail.config.overlap import covering
from guardrail.config.references import escalation_findings, name_findings, policy_findings
from guardrail.errors import ConfigError, Finding, PolicyError
from guardrail.policy.registry import policy_files
from guardrail.types import Stage

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w.-]+)?")
_PROXYS_OWN = ("/v1/", "/api/", "/beta/", "/console/")


def check(config: Config, policies: PolicySource | None = None, *, environment: Environment | None = None) -> list[Finding]:
    """Every finding about the meaning of a configuration, by line; errors forbid its use, warnings do not.

    Without `policies` what depends on them is left out: so a missing policy folder can be reported before it is read.
    `environment` stands in for the process's own.
    """
    found = [
        *name_findings(config),
        *escalation_findings(config),
        *_route_findings(config),
        *_redact_findings(config),
        *_disguise_findings(config),
        *_conversation_findings(config),
        *_tenant_findings(config),
        *_limit_findings(config),
        *_console_findings(config),
        *_prometheus_findings(config),
        *_package_findings(config),
        *_variable_findings(config, environment or process_environment()),
        *_folder_findings(config),
        *audit_findings(config, environment or process_environment()),
        *(policy_findings(config, policies) if policies is not None else ()),
    ]
    return sorted(found, key=lambda finding: (finding.line, finding.code))


def require(config: Config, policies: PolicySource, *, environment: Environment | None = None) -> list[Finding]:
    """The warnings of a configuration that may be used. Raises ConfigError, with the errors alone, for one that may not."""
    found = check(config, policies, environment=environment)
    if errors := [finding for finding in found if finding.severity == "error"]:
        raise ConfigError(errors)
    return found


def _route_findings(config: Config) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for index, route in enumerate(config.routes):
        loc = ("routes", index)
        if route.name in first:
            line = config.source.line(("routes", first[route.name]))
            message = f"a second route is named {route.name!r} (the first: line {line}); give it another name"
            yield config.source.finding((*loc, "name"), Code.DUPLICATE_ROUTE, message)
        first.setdefault(route.name, index)
        if earlier := covering(config, index):
            names = " and ".join(f"{config.routes[i].name!r} (line {config.source.line(('routes', i))})" for i in earlier)
            message = f"route {route.name!r} is never reached: {names} before it takes all it matches; put it first, or remove it"
            yield config.source.finding(loc, Code.UNREACHABLE_ROUTE, message)
        if route.stream.mode != "hold" and not set(route.paths) & set(STREAMED_PATHS):
            message = f"route {route.name!r}: answers of {route.path} are never streamed, so stream.mode cannot be kept; leave it out"
            yield config.source.finding((*loc, "stream", "mode"), Code.NOT_ENFORCEABLE, message)
        upstream = config.upstreams.get(route.upstream)
        if route.stored_turns == "resolve" and upstream is not None and not isinstance(upstream, OpenAIUpstream):
            message = (
                f"stored_turns 'resolve' fetches stored turns of the upstream, and {route.upstream!r} is {upstream.kind}, "
                "which stores none; use refuse, or an upstream of kind openai"
            )
            yield config.source.finding((*loc, "stored_turns"), Code.NOT_ENFORCEABLE, message)
        if route.on_error == "pass" and "enforce" in _modes(config, index):
            message = f"route {route.name!r} enforces, yet lets pass what could not be judged; on_error: block closes the gap"
            yield config.source.finding((*loc, "on_error"), Code.FAILS_OPEN, message, warning=True)


def _disguise_findings(config: Config) -> Iterator[Finding]:
    for index, route in enumerate(config.routes):
        if route.normalize == OFF and "enforce" in _modes(config, index):
            message = f"route {route.name!r} enforces, yet judges disguised text (base64, lookalikes) as it stands; leave normalize out"
            yield config.source.finding(("routes", index, "normalize"), Code.UNREAD_DISGUISES, message, warning=True)


def _conversation_findings(config: Config) -> Iterator[Finding]:
    for index, route in enumerate(config.routes):
        loc, turns = ("routes", index), f"{', '.join(CONVERSATIONS[:-1])} and {CONVERSATIONS[-1]}"
        for key, value in (("scope", route.scope), ("history", route.history)):
            if value not in ("all", "each", "block") and route.path not in (ANY, *CONVERSATIONS):
                message = f"{key}: {value} needs turns, which requests to {route.path} have none of; it is for {turns}, or leave it out"
                yield config.source.finding((*loc, key), Code.NOT_ENFORCEABLE, message)
        if route.history != "block" and route.timing == "parallel":
            message = (
                f"history: {route.history} changes what the upstream is sent, and with timing: parallel route {route.name!r} has sent it "
                "before it is judged; write timing: before, or history: block"
            )
            yield config.source.finding((*loc, "history"), Code.NOT_ENFORCEABLE, message)
        if route.history != "block" and route.scope == "latest_turn":
            message = (
                f"history: {route.history} is about earlier turns, which route {route.name!r} does not judge (scope: latest_turn); write "
                "scope: all, or history: block"
            )
            yield config.source.finding((*loc, "history"), Code.NOT_ENFORCEABLE, message)
        if route.scope == "latest_turn":
            message = (
                f"route {route.name!r} judges no earlier turns, and a caller writes these itself: what violates can be put there, as an "
                "answer that no model gave, too; scope: all closes the gap, and an unchanged history costs nothing (`cache`)"
            )
            yield config.source.finding((*loc, "scope"), Code.HISTORY_UNJUDGED, message, warning=True)


def _redact_findings(config: Config) -> Iterator[Finding]:
    """Where nothing can be taken out: of prompts, of what is out before it is judged, of vectors."""
    for index, route in enumerate(config.routes):
        for stage in Stage:
            section = route.stage(stage)
            for place, use in enumerate(() if section.policies == "all" else section.policies):
                if use.action != "redact":
                    continue
                if stage is Stage.INPUT:
                    why = "prompts are never rewritten; use block, or annotate"
                elif route.stream.mode == "watch":
                    why = "what stream.mode watch lets out before it is judged cannot be redacted; use window, overlap or hold, or block"
                elif not set(route.paths) & set(STREAMED_PATHS):
                    why = f"the answers of {route.path} hold no text; use block, or annotate"
                else:
                    continue
                loc = ("routes", index, stage.value, "policies", place, "action")
                message = f"route {route.name!r}, {stage.value}: policy {use.id!r} cannot be redacted: {why}"
                yield config.source.finding(loc, Code.NOT_ENFORCEABLE, message)


def _modes(config: Config, index: int) -> set[str]:
    """The modes of a route's checks as written."""
    route = config.routes[index]
    modes: set[str] = set()
    for section in (route.input, route.output):
        if section.policies == "all":
            modes.add(route.mode)
        else:
            modes.update(use.mode or route.mode for use in section.policies)
    return modes


def _tenant_findings(config: Config) -> Iterator[Finding]:
    for name in config.tenant_names:
        if not any(name in config.tenants_of(route) for route in config.routes):
            message = f"no route is for tenant {name!r}, so everything it asks is refused; add a route for it or for *"
            yield config.source.finding(("tenants", name) if config.tenants else ("routes",), Code.TENANT_WITHOUT_ROUTE, message)
    owners: dict[str, str] = {}
    for name, tenant in config.tenants.items():
        if not tenant.api_keys:
            message = f"tenant {name!r} has no api_keys, so nobody can be it; add what `guardrail config hash-key` prints"
            yield config.source.finding(("tenants", name), Code.TENANT_WITHOUT_KEY, message, warning=True)
        for place, key in enumerate(tenant.api_keys):
            owner = owners.setdefault(key, name)
            loc = ("tenants", name, "api_keys", place)
            if owner != name:
                message = f"tenant {name!r} has a key of tenant {owner!r}; a key belongs to one tenant: remove it from one of them"
                yield config.source.finding(loc, Code.SHARED_KEY, message)
            elif key in tenant.api_keys[:place]:
                message = f"tenant {name!r} has the same key twice; remove one"
                yield config.source.finding(loc, Code.SHARED_KEY, message, warning=True)


def _limit_findings(config: Config) -> Iterator[Finding]:
    """Limits that cannot be kept as they are written, each tenant's over the server's."""
    for name in config.tenant_names:
        limits, own = config.limits_of(name), config.tenants.get(name)
        loc = ("server", "limits") if own is None or own.limits == type(limits)() else ("tenants", name, "limits")
        if limits.burst is not None and limits.requests_per_s is None:
            message = f"burst {limits.burst} limits nothing for tenant {name!r} without requests_per_s; add it, or remove burst"
            yield config.source.finding((*loc, "burst"), Code.NOT_ENFORCEABLE, message)
        longest, minute = limits.prompt_characters, limits.characters_per_minute
        if longest is not None and minute is not None and longest > minute:
            message = (
                f"prompt_characters {longest} can never be had with characters_per_minute {minute} (tenant {name!r}); bring them in line"
            )
            yield config.source.finding((*loc, "prompt_characters"), Code.NOT_ENFORCEABLE, message)
        if limits.max_body_bytes is not None and limits.max_body_bytes > config.server.max_body_bytes:
            message = f"max_body_bytes {limits.max_body_bytes} of tenant {name!r} is above the server's {config.server.max_body_bytes}"
            yield config.source.finding(
                (*loc, "max_body_bytes"), Code.NOT_ENFORCEABLE, f"{message}, which stands over it; raise that, or lower this"
            )


def _console_findings(config: Config) -> Iterator[Finding]:
    console = config.console
    if console is not None and config.audit is None:
        message = "the console shows no decisions, because none are kept; add an audit store: audit: {path: audit.db}"
        yield config.source.finding(("console",), Code.NO_STORE, message, warning=True)
    owner = next((name for name, tenant in config.tenants.items() if console and console.admin_key in tenant.api_keys), None)
    if owner is not None:
        message = f"the console's admin_key is a key of tenant {owner!r}, which must not open it; make another one"
        yield config.source.finding(("console", "admin_key"), Code.SHARED_KEY, message)


def _prometheus_findings(config: Config) -> Iterator[Finding]:
    wanted = config.telemetry.prometheus
    if not wanted.enabled:
        return
    place = ("telemetry", "prometheus")
    if wanted.path in ("/healthz", "/readyz") or f"{wanted.path}/".startswith(_PROXYS_OWN):
        message = (
            f"telemetry.prometheus.path {wanted.path!r} is one of the proxy's own paths, or lies below one; choose another, like /metrics"
        )
        yield config.source.finding((*place, "path"), Code.NOT_ENFORCEABLE, message)
    owner = next((name for name, tenant in config.tenants.items() if wanted.key in tenant.api_keys), None)
    if wanted.key is not None and owner is not None:
        message = f"telemetry.prometheus.key is a key of tenant {owner!r}, which must not see the others' numbers; make another one"
        yield config.source.finding((*place, "key"), Code.SHARED_KEY, message)
    if wanted.key is None:
        message = (
            "telemetry.prometheus has no key, so whoever asks from this machine is told the metrics: through a reverse proxy on it that "
            "does not set X-Forwarded-For, that is everybody; set telemetry.prometheus.key (guardrail config hash-key)"
        )
        yield config.source.finding((*place, "enabled"), Code.KEYLESS, message, warning=True)
    if not _installed("prometheus_client"):
        message = "telemetry.prometheus needs packages that are not installed; run: pip install 'guardrail[prometheus]'"
        yield config.source.finding((*place, "enabled"), Code.MISSING_PACKAGE, message)


def _package_findings(config: Config) -> Iterator[Finding]:
    for name, upstream in config.upstreams.items():
        if isinstance(upstream, LiteLLMUpstream) and not _installed("litellm"):
            message = f"upstream {name!r} needs litellm, which is not installed; run: pip install 'guardrail[litellm]'"
            yield config.source.finding(("upstreams", name, "kind"), Code.MISSING_PACKAGE, message)
    for name, classifier in config.classifiers.items():
        if isinstance(classifier, CustomClassifier):
            package = classifier.factory.partition(":")[0].partition(".")[0]
            if not _installed(package):
                message = f"classifier {name!r}: no package {package!r} is installed; install it, or correct the factory"
                yield config.source.finding(("classifiers", name, "factory"), Code.MISSING_PACKAGE, message)
        elif isinstance(classifier, CopeClassifier | AdapterClassifier) and not _installed("transformers"):
            message = f"classifier {name!r} needs transformers, which is not installed; run: pip install 'guardrail[cope]'"
            yield config.source.finding(("classifiers", name, "kind"), Code.MISSING_PACKAGE, message)
        elif getattr(classifier, "tokenizer", None) and not _installed("transformers"):
            message = f"classifier {name!r} needs transformers for its tokenizer; run: pip install 'guardrail[cope]'"
            yield config.source.finding(("classifiers", name, "tokenizer"), Code.MISSING_PACKAGE, message)


def _installed(package: str) -> bool:
    """Whether a top-level package can be imported; nothing is imported to find out."""
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # imported already, by a loader that left no spec
        return True


def _variable_findings(config: Config, environment: Environment) -> Iterator[Finding]:
    for name, upstream in config.upstreams.items():
        variable = upstream.api_key_env if isinstance(upstream, OpenAIUpstream | LiteLLMUpstream) else None
        if variable and environment.secret(variable) is None:
            message = f"upstream {name!r}: the environment variable {variable} is not set; set it before the proxy starts"
            yield config.source.finding(("upstreams", name, "api_key_env"), Code.MISSING_VARIABLE, message, warning=True)
    for name, classifier in config.classifiers.items():
        variable = classifier.api_key_env if isinstance(classifier, RemoteClassifier) else None
        if variable and environment.secret(variable) is None:
            message = f"classifier {name!r}: the environment variable {variable} is not set; set it before the proxy starts"
            yield config.source.finding(("classifiers", name, "api_key_env"), Code.MISSING_VARIABLE, message, warning=True)


def _folder_findings(config: Config) -> Iterator[Finding]:
    folders: list[tuple[tuple[str, ...], Path | None]] = [(("policies", "folder"), config.policy_folder)]
    folders += [(("tenants", name, "policies"), folder) for name, folder in config.tenant_folders.items()]
    for loc, folder in folders:
        if folder is not None and not folder.is_dir():
            message = f"there is no policy folder {str(folder)!r}; make it, or correct the path (it is relative to the configuration file)"
            yield config.source.finding(loc, Code.MISSING_FOLDER, message)
        elif folder is not None and _is_empty(folder):
            message = f"the policy folder {str(folder)!r} holds no policies; put them there, or leave the folder out"
            yield config.source.finding(loc, Code.EMPTY_FOLDER, message, warning=True)
    yield from _candidate_findings(config)
    for name, classifier in config.classifiers.items():
        if isinstance(classifier, CopeClassifier):
            yield from _model_findings(config, ("classifiers", name, "model"), classifier.model, "guardrail model merge")
            yield from _probe_findings(config, name, classifier)
        elif isinstance(classifier, AdapterClassifier):
            yield from _model_findings(config, ("classifiers", name, "model"), classifier.model, "guardrail train adapter")
            if classifier.base is not None:
                yield from _model_findings(config, ("classifiers", name, "base"), classifier.base, "hf download")


def _is_empty(folder: Path) -> bool:
    """Whether it can be read and holds no policy file; one that cannot is told of when its policies are read."""
    try:
        return not policy_files(folder)
    except PolicyError:
        return False


def _candidate_findings(config: Config) -> Iterator[Finding]:
    for index, route in enumerate(config.routes):
        for stage in Stage:
            policies = route.stage(stage).policies
            for place, use in enumerate(() if policies == "all" else policies):
                if use.candidate_file is not None and not (path := config.candidates[use.candidate_file]).is_file():
                    message = (
                        f"there is no policy file {str(path)!r}; write it, or correct the path (it is relative to the configuration file)"
                    )
                    yield config.source.finding(
                        ("routes", index, stage.value, "policies", place, "candidate"), Code.MISSING_FOLDER, message
                    )


def _model_findings(config: Config, loc: tuple[str, ...], model: str, command: str) -> Iterator[Finding]:
    """A model is a folder, or `owner/name` on the hub; which of the two a name that is neither was meant to be is not guessed."""
    if not (config.source.folder / model).is_dir() and not _HUB_ID.fullmatch(model):
        message = (
            f"there is no model folder {str(config.source.folder / model)!r}; write it with `{command}`, or correct "
            "the path (it is relative to the configuration file)"
        )
        yield config.source.finding(loc, Code.MISSING_FOLDER, message)


def _probe_findings(config: Config, name: str, classifier: CopeClassifier) -> Iterator[Finding]:
    if classifier.probe is not None and not (config.source.folder / classifier.probe).is_dir():
        message = f"there is no probe folder {str(config.source.folder / classifier.probe)!r}; correct the path, or leave `probe` out"
        yield config.source.finding(("classifiers", name, "probe"), Code.MISSING_FOLDER, message)
