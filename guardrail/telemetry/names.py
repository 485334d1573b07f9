"""Every name that telemetry gives to anything. Names are public API: dashboards and alerts are built on them.

Two families. `guardrail.*` is ours, always emitted and stable. `gen_ai.*` follows the OpenTelemetry drafts for guardrails, which
are not merged and still move; `semconv` in the configuration picks the generation, and `none` leaves those drafts out.
The `gen_ai.*` names of the upstream call are merged conventions and are not switched.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from guardrail.types import Action, Stage

SCOPE: Final = "guardrail"
AUDIT_LOGGER: Final = "guardrail.audit"

# Spans of the merged conventions
HTTP_METHOD: Final = "http.request.method"
HTTP_ROUTE: Final = "http.route"
HTTP_STATUS: Final = "http.response.status_code"
URL_PATH: Final = "url.path"
URL_SCHEME: Final = "url.scheme"
ERROR_TYPE: Final = "error.type"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
OUTPUT_TYPE: Final = "gen_ai.output.type"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_ID: Final = "gen_ai.response.id"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_CREATION_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"
REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105 - a name, not a secret
INSTANCE: Final = "service.instance.id"
MESSAGES: Final[Mapping[Stage, str]] = MappingProxyType({Stage.INPUT: "gen_ai.input.messages", Stage.OUTPUT: "gen_ai.output.messages"})

# A score that nothing was done about, by the merged conventions for evaluations
EVALUATION: Final = "gen_ai.evaluation.result"
EVALUATION_NAME: Final = "gen_ai.evaluation.name"
EVALUATION_SCORE: Final = "gen_ai.evaluation.score.value"
EVALUATION_LABEL: Final = "gen_ai.evaluation.score.label"

# Request parameters that are numbers; everything else of a request body could be content and is left out.
REQUEST_FLOATS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "temperature": "gen_ai.request.temperature",
        "top_p": "gen_ai.request.top_p",
        "frequency_penalty": "gen_ai.request.frequency_penalty",
        "presence_penalty": "gen_ai.request.presence_penalty",
    }
)
REQUEST_INTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "max_tokens": "gen_ai.request.max_tokens",
        "max_completion_tokens": "gen_ai.request.max_tokens",
        "max_output_tokens": "gen_ai.request.max_tokens",
        "seed": "gen_ai.request.seed",
        "n": "gen_ai.request.choice.count",
    }
)

# Our own attributes
DECISION: Final = "guardrail.decision"  # pass | annotate | redact | block | unjudged: what the policies said
ENFORCED: Final = "guardrail.enforced"  # pass | annotate | redact | block: what was done
MODE: Final = "guardrail.mode"  # enforce | shadow: shadow where `decision` was only recorded
SOURCE: Final = "guardrail.source"  # input | output
UNJUDGED: Final = "guardrail.unjudged"
KEEP: Final = "guardrail.sampling.keep"  # true where something was blocked or not judged: a sampler must not lose it
OVERHEAD: Final = "guardrail.overhead_ms"  # of the whole request, without the wait for the upstream
UNAVAILABLE: Final = "guardrail.unavailable"
UNSCANNABLE: Final = "guardrail.unscannable.count"
VERDICTS: Final = "guardrail.verdict.count"
VIOLATIONS: Final = "guardrail.violation.count"
DECISION_ID: Final = "guardrail.decision.id"
REQUEST_ID: Final = "guardrail.request.id"
ROUTE: Final = "guardrail.route"
TENANT: Final = "guardrail.tenant"
GENERATION: Final = "guardrail.generation"
WORKER: Final = "guardrail.worker"  # of the resource: which of several processes of one proxy
UPSTREAM: Final = "guardrail.upstream"
CLASSIFIER: Final = "guardrail.classifier"
POLICY_ID: Final = "guardrail.policy.id"
POLICY_VERSION: Final = "guardrail.policy.version"
POLICY_DIGEST: Final = "guardrail.policy.digest"
ACTION: Final = "guardrail.action"
SCORE: Final = "guardrail.score"
THRESHOLD: Final = "guardrail.threshold"
CRITERION: Final = "guardrail.criterion"
PART: Final = "guardrail.part"
FLAGS: Final = "guardrail.flags"  # codes of what was odd about the judged text
READING: Final = "guardrail.reading"  # what was undone to read the judged text so, in order: base64+rot13; absent for it as it stands
BUCKET: Final = "guardrail.classifier.bucket"  # tokens of the pass: the same one gives the same bits
OUTSIDE: Final = "guardrail.classifier.outside_mass"  # probability given to neither answer
TEMPLATE: Final = "guardrail.classifier.template"
CODE: Final = "guardrail.code"
BREAKER: Final = "guardrail.breaker"  # classifier | upstream
BREAKER_NAME: Final = "guardrail.breaker.name"
LIMIT: Final = "guardrail.limit"  # requests | concurrency | characters | prompt | tokens
WINDOW: Final = "guardrail.window"  # event: a window of a growing answer was judged
WINDOW_INDEX: Final = "guardrail.window.index"
WINDOW_END: Final = "guardrail.window.end"

# Metrics
REQUESTS: Final = "guardrail.requests"
DECISION_DURATION: Final = "guardrail.decision.duration"
POLICY_RESULTS: Final = "guardrail.policy.results"
VIOLATION_COUNT: Final = "guardrail.violations"
ERROR_COUNT: Final = "guardrail.errors"
UNJUDGED_COUNT: Final = "guardrail.unjudged"
TRUNCATED_COUNT: Final = "guardrail.readings.truncated"
REFUSALS: Final = "guardrail.refusals"
LIMITED: Final = "guardrail.limited"
BREAKER_OPEN: Final = "guardrail.breaker.open"
UPSTREAM_ERRORS: Final = "guardrail.upstream.errors"
CANARY_OK: Final = "guardrail.canary.ok"
POLICY_GENERATION: Final = "guardrail.policies.generation"
POLICIES_IN_FORCE: Final = "guardrail.policies.in_force"
POLICIES_PUBLISHED: Final = "guardrail.policies.published"
STREAM_MODE: Final = "guardrail.stream.mode"
POLICIES_DIGEST: Final = "guardrail.policies.digest"
IN_FLIGHT: Final = "guardrail.requests.in_flight"
QUEUE_DEPTH: Final = "guardrail.classifier.queue.depth"
QUEUE_TOKENS: Final = "guardrail.classifier.queue.tokens"
BATCH_SIZE: Final = "guardrail.classifier.batch.size"
CLASSIFIER_DURATION: Final = "guardrail.classifier.duration"
AUDIT_QUEUE: Final = "guardrail.audit.queue.depth"
TOP_SCORE: Final = "guardrail.decision.score"
OVERHEAD_DURATION: Final = "guardrail.overhead"
HELD: Final = "guardrail.stream.held"
POLICIES_REFUSED: Final = "guardrail.policies.refused"
AUDIT_UNRECORDED: Final = "guardrail.audit.unrecorded"
AUDIT_OK: Final = "guardrail.audit.ok"
CACHE_HITS: Final = "guardrail.cache.hits"
CACHE_MISSES: Final = "guardrail.cache.misses"
CACHE_EVICTIONS: Final = "guardrail.cache.evictions"
CLIENT_DURATION: Final = "gen_ai.client.operation.duration"
CLIENT_TOKENS: Final = "gen_ai.client.token.usage"
CLIENT_NEXT_CHUNK: Final = "gen_ai.client.operation.time_per_output_chunk"
CLIENT_FIRST_CHUNK: Final = "gen_ai.client.operation.time_to_first_chunk"

# Histogram bounds, in seconds; the last one in tokens
DECISION_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
CLIENT_BUCKETS: Final = tuple(0.01 * 2**step for step in range(14))
CHUNK_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
BATCH_BUCKETS: Final = tuple(float(2**step) for step in range(13))
SCORE_BUCKETS: Final = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
HELD_BUCKETS: Final = tuple(float(4**step) for step in range(2, 13))
TOKEN_BUCKETS: Final = tuple(float(4**step) for step in range(14))

# Values
OTHER: Final = "other"
OTHER_METHOD: Final = "_OTHER"
UNJUDGED_WORD: Final = "unjudged"
APPLY: Final = "apply_guardrail"
GUARD_PROVIDER: Final = "guardrail"
REACHED: Final = "threshold_reached"  # why a result is what it is; never a text
NOT_REACHED: Final = "threshold_not_reached"
RESULT_FIELD: Final = "action"  # the drafts ask for the name of the reporting product's own result field


class Semconv(StrEnum):
    """Which draft of the guardrail conventions to speak beside our own names."""

    V427 = "v427"
    GUARDIAN = "guardian"
    NONE = "none"


_OWN_CONTENT: Final[Mapping[Stage, str]] = MappingProxyType(
    {Stage.INPUT: "guardrail.content.input", Stage.OUTPUT: "guardrail.content.output"}
)


@dataclass(frozen=True, slots=True)
class GuardNames:
    """What one draft calls the facts of a guardrail span and its result events; None where it has no word, and then nothing is set."""

    event: str
    sources: Mapping[Stage, str]
    results: Mapping[Action, str]
    operation: str | None = None
    provider: str | None = None
    component: str | None = None
    source: str | None = None
    result_type: str | None = None
    result_value: str | None = None
    policy_id: str | None = None
    policy_version: str | None = None
    rule_id: str | None = None
    risk_category: str | None = None
    risk_score: str | None = None
    reason: str | None = None
    evaluation: str | None = None
    content: Mapping[Stage, str] = field(default_factory=lambda: _OWN_CONTENT)
    source_in_name: bool = False

    def span(self, component: str, stage: Stage) -> str:
        """The name of the span around one stage's judging."""
        return f"{APPLY} {component} {self.sources[stage]}" if self.source_in_name else f"{APPLY} {component}"


_OWN_SOURCES: Final = MappingProxyType({stage: stage.value for stage in Stage})
_OWN_RESULTS: Final = MappingProxyType({action: action.word for action in Action})

GUARD_NAMES: Final[Mapping[Semconv, GuardNames]] = MappingProxyType(
    {
        Semconv.V427: GuardNames(
            event="gen_ai.guardrail.result",
            sources=_OWN_SOURCES,
            results=_OWN_RESULTS,
            operation=OPERATION,
            provider=PROVIDER,
            component="gen_ai.guardrail.component.name",
            source="gen_ai.guardrail.source",
            result_type="gen_ai.guardrail.result.type",
            result_value="gen_ai.guardrail.result.value",
            policy_id="gen_ai.guardrail.policy.id",
            policy_version="gen_ai.guardrail.policy.version",
            rule_id="gen_ai.guardrail.policy.rule.id",
            risk_category="gen_ai.guardrail.risk.category",
            risk_score="gen_ai.guardrail.risk.score",
            reason="gen_ai.guardrail.result.reason",
            evaluation=EVALUATION,
            content=MappingProxyType(
                {Stage.INPUT: "gen_ai.guardrail.content.input.value", Stage.OUTPUT: "gen_ai.guardrail.content.output.value"}
            ),
        ),
        Semconv.GUARDIAN: GuardNames(
            event="gen_ai.security.finding",
            sources=MappingProxyType({Stage.INPUT: "llm_input", Stage.OUTPUT: "llm_output"}),
            results=MappingProxyType({Action.PASS: "allow", Action.ANNOTATE: "warn", Action.REDACT: "modify", Action.BLOCK: "deny"}),
            operation=OPERATION,
            provider="gen_ai.guardian.provider.name",
            component="gen_ai.guardian.name",
            source="gen_ai.security.target.type",
            result_value="gen_ai.security.decision.type",
            policy_id="gen_ai.security.policy.id",
            policy_version="gen_ai.security.policy.version",
            risk_category="gen_ai.security.risk.category",
            risk_score="gen_ai.security.risk.score",
            reason="gen_ai.security.decision.reason",
            evaluation=EVALUATION,
            content=MappingProxyType(
                {Stage.INPUT: "gen_ai.security.content.input.value", Stage.OUTPUT: "gen_ai.security.content.output.value"}
            ),
            source_in_name=True,
        ),
        Semconv.NONE: GuardNames(event="guardrail.result", sources=_OWN_SOURCES, results=_OWN_RESULTS),
    }
)
