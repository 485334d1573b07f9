"""Counters, histograms and gauges from the events of the core and from finished upstream calls.

A violation, a technical error and an unjudged text are three different counters: none of them is ever counted as another.
"""

from collections.abc import Callable, Sequence

from opentelemetry.metrics import Histogram, Meter, MeterProvider, get_meter
from opentelemetry.util.types import AttributeValue

from guardrail.events import (
    AnswerHeld,
    AuditTroubled,
    BreakerChanged,
    CacheUsed,
    CanaryChecked,
    ClassifierAsked,
    DecisionMade,
    Event,
    PoliciesPublished,
    PoliciesRefused,
    RequestRefused,
    UpstreamFailed,
)
from guardrail.questions import TRUNCATED
from guardrail.telemetry import names
from guardrail.telemetry.calls import UpstreamCall
from guardrail.telemetry.cardinality import CLIENT_WORDS, IDS, Distinct
from guardrail.telemetry.gauges import Gauges, State
from guardrail.telemetry.summary import error_code, findings, reading_word, words
from guardrail.telemetry.tally import Tally
from guardrail.types import Action, Decision


class Metrics:
    """An event sink. `meter_provider` None means the process-wide one. Cheap, thread-safe enough to be called from anywhere."""

    def __init__(self, meter_provider: MeterProvider | None = None) -> None:
        meter = get_meter(names.SCOPE, meter_provider=meter_provider)
        self._decisions = _Decisions(meter)
        self._happenings = _Happenings(meter)
        self._calls = _Calls(meter)
        self._work = _Work(meter)
        self._gauges = Gauges(meter)

    def watch(self, state: Callable[[], State | None]) -> None:
        """Ask this, whenever somebody collects, how the running guard is."""
        self._gauges.state = state

    def emit(self, event: Event) -> None:
        """Count one event."""
        if isinstance(event, DecisionMade):
            self._decisions.count(event.decision)
        elif isinstance(event, CacheUsed | ClassifierAsked | AnswerHeld):
            self._work.count(event)
        else:
            self._happenings.count(event)

    def served(self, route: str, overhead_s: float) -> None:
        """Count one request that was answered: what guarding added to it."""
        self._work.served(route, overhead_s)

    def upstream(self, call: UpstreamCall) -> None:
        """Count one finished upstream call: duration, time to the first chunk, tokens."""
        self._calls.count(call)


class _Decisions:
    """What was decided, by whom, how fast, and what could not be."""

    def __init__(self, meter: Meter) -> None:
        self._requests = Tally(meter, names.REQUESTS, "{decision}", "Decisions by what the policies said and what was done")
        self._results = Tally(meter, names.POLICY_RESULTS, "{result}", "Judged results by policy; a policy that erred has none")
        self._violations = Tally(meter, names.VIOLATION_COUNT, "{violation}", "Policies whose threshold was reached")
        self._errors = Tally(meter, names.ERROR_COUNT, "{error}", "Verdicts that are a technical error")
        self._truncated = Tally(meter, names.TRUNCATED_COUNT, "{decision}", "Decisions over a text that limits left a reading of unread")
        self._unjudged = Tally(meter, names.UNJUDGED_COUNT, "{decision}", "Decisions over something that was not judged")
        self._duration = _histogram(meter, names.DECISION_DURATION, "s", "Time from asking to deciding one stage", names.DECISION_BUCKETS)
        self._score = _histogram(meter, names.TOP_SCORE, "1", "The highest score of a decision", names.SCORE_BUCKETS)
        self._route = Distinct(IDS)
        self._tenant = Distinct(IDS)
        self._policy = Distinct(IDS)
        self._reading = Distinct(CLIENT_WORDS)

    def count(self, decision: Decision) -> None:
        said = words(decision.outcome)
        source: dict[str, AttributeValue] = {names.SOURCE: decision.stage.value}
        where = source | {names.ROUTE: self._route(decision.route), names.TENANT: self._tenant(decision.tenant)}
        self._requests.add(1, where | {names.DECISION: said.decision, names.ENFORCED: said.enforced, names.MODE: said.mode.value})
        self._duration.record(decision.duration_s, source | {names.ROUTE: where[names.ROUTE], names.DECISION: said.decision})
        if decision.outcome.unjudged:
            self._unjudged.add(1, where | {names.ENFORCED: said.enforced})
        if any(TRUNCATED in verdict.flags for verdict in decision.verdicts):
            self._truncated.add(1, where)
        judged = [verdict for verdict in findings(decision, everything=True) if verdict.score is not None]
        if judged:
            top = max(judged, key=lambda verdict: verdict.score or 0.0)
            self._score.record(top.score or 0.0, source | {names.POLICY_ID: self._policy(top.policy_id)})
        for verdict in judged:
            action = verdict.action if verdict.violation else Action.PASS
            policy = source | {names.POLICY_ID: self._policy(verdict.policy_id), names.ACTION: action.word, names.MODE: verdict.mode.value}
            self._results.add(1, policy)
            if verdict.violation:
                read = reading_word(verdict)
                self._violations.add(1, policy if read is None else policy | {names.READING: self._reading(read)})
        for verdict in decision.verdicts:
            if verdict.error is not None:
                self._errors.add(1, source | {names.ERROR_TYPE: error_code(verdict.error)})


Happening = BreakerChanged | RequestRefused | UpstreamFailed | CanaryChecked | PoliciesPublished | PoliciesRefused | AuditTroubled


class _Happenings:
    """Everything that is not a decision."""

    def __init__(self, meter: Meter) -> None:
        self._refusals = Tally(meter, names.REFUSALS, "{request}", "Requests answered before anything was judged")
        self._limited = Tally(meter, names.LIMITED, "{request}", "Requests refused because their tenant has used up a limit")
        self._upstream_errors = Tally(meter, names.UPSTREAM_ERRORS, "{error}", "Upstream calls that broke or answered an error")
        self._canary = meter.create_gauge(names.CANARY_OK, "{canary}", "1 while the classifier judges its known pair rightly, else 0")
        self._published = Tally(meter, names.POLICIES_PUBLISHED, "{change}", "Changes of the policies that were put into force")
        self._refused = Tally(meter, names.POLICIES_REFUSED, "{change}", "Changes refused; the last good generation stays in force")
        self._unrecorded = Tally(meter, names.AUDIT_UNRECORDED, "{record}", "Records that the audit store does not hold")
        self._audit = meter.create_gauge(names.AUDIT_OK, "{store}", "1 while the audit store can be written, else 0")
        self._breaker = meter.create_gauge(names.BREAKER_OPEN, "{breaker}", "1 while a breaker lets nothing or one trial through, else 0")
        self._broken = Distinct(IDS)
        self._code = Distinct(CLIENT_WORDS)
        self._tenant = Distinct(IDS)
        self._upstream = Distinct(IDS)
        self._classifier = Distinct(IDS)

    def count(self, event: Happening) -> None:
        match event:
            case BreakerChanged(kind, name, state):
                self._breaker.set(int(state != "closed"), {names.BREAKER: kind, names.BREAKER_NAME: self._broken(name)})
            case AuditTroubled():
                if event.code in ("failing", "recovered"):
                    self._audit.set(int(event.code == "recovered"))
                else:
                    self._unrecorded.add(event.records, {names.ERROR_TYPE: error_code(event.code)})
            case RequestRefused():
                self._refusals.add(1, {names.HTTP_STATUS: event.status, names.ERROR_TYPE: self._code(error_code(event.code))})
                if event.limit:
                    self._limited.add(1, {names.LIMIT: event.limit, names.TENANT: self._tenant(event.tenant)})
            case UpstreamFailed():
                code = self._code(error_code(event.code))
                self._upstream_errors.add(1, {names.UPSTREAM: self._upstream(event.upstream), names.ERROR_TYPE: code})
            case CanaryChecked():
                self._canary.set(int(event.ok), {names.CLASSIFIER: self._classifier(event.classifier)})
            case PoliciesPublished():
                self._published.add(1)
            case PoliciesRefused():
                self._refused.add(1)


class _Work:
    """What judging took: questions, time, memory, and what was not asked because it was known."""

    def __init__(self, meter: Meter) -> None:
        self._hits = Tally(meter, names.CACHE_HITS, "{score}", "Scores that were known, and not asked for")
        self._misses = Tally(meter, names.CACHE_MISSES, "{score}", "Scores that a classifier was asked for")
        self._evictions = Tally(meter, names.CACHE_EVICTIONS, "{score}", "Scores forgotten to make room")
        self._batch = _histogram(meter, names.BATCH_SIZE, "{question}", "Questions in one call of a classifier", names.BATCH_BUCKETS)
        self._asked = _histogram(meter, names.CLASSIFIER_DURATION, "s", "Duration of one call of a classifier", names.DECISION_BUCKETS)
        self._held = _histogram(
            meter, names.HELD, "{character}", "Most characters of a streamed answer that waited for their verdict", names.HELD_BUCKETS
        )
        self._overhead = _histogram(meter, names.OVERHEAD_DURATION, "s", "What guarding added to a request", names.DECISION_BUCKETS)
        self._classifier = Distinct(IDS)
        self._route = Distinct(IDS)

    def count(self, event: CacheUsed | ClassifierAsked | AnswerHeld) -> None:
        match event:
            case CacheUsed():
                for counter, number in ((self._hits, event.hits), (self._misses, event.misses), (self._evictions, event.evictions)):
                    if number:
                        counter.add(number)
            case ClassifierAsked():
                classifier = {names.CLASSIFIER: self._classifier(event.classifier)}
                self._batch.record(event.questions, classifier)
                self._asked.record(event.duration_s, classifier)
            case AnswerHeld():
                self._held.record(event.held, {names.ROUTE: self._route(event.route), names.STREAM_MODE: event.mode})

    def served(self, route: str, overhead_s: float) -> None:
        self._overhead.record(overhead_s, {names.ROUTE: self._route(route)})


class _Calls:
    """The conventions' client metrics."""

    def __init__(self, meter: Meter) -> None:
        self._duration = _histogram(meter, names.CLIENT_DURATION, "s", "Duration of an upstream call", names.CLIENT_BUCKETS)
        self._first_chunk = _histogram(meter, names.CLIENT_FIRST_CHUNK, "s", "Time to the first chunk", names.CLIENT_BUCKETS)
        self._next_chunk = _histogram(meter, names.CLIENT_NEXT_CHUNK, "s", "Time from one chunk to the next", names.CHUNK_BUCKETS)
        self._tokens = _histogram(meter, names.CLIENT_TOKENS, "{token}", "Tokens of an upstream call", names.TOKEN_BUCKETS)
        self._model = Distinct(CLIENT_WORDS)
        self._error = Distinct(CLIENT_WORDS)

    def count(self, call: UpstreamCall) -> None:
        # Only a model that an upstream has answered for takes one of the places: invented names cannot crowd out real ones.
        attributes: dict[str, AttributeValue] = {
            names.OPERATION: call.operation,
            names.PROVIDER: call.provider,
            names.REQUEST_MODEL: self._model(call.model, admit=call.error is None),
        }
        if call.server is not None:
            address, port = call.server
            attributes[names.SERVER_ADDRESS] = address
            if port is not None:
                attributes[names.SERVER_PORT] = port
        error: dict[str, AttributeValue] = {} if call.error is None else {names.ERROR_TYPE: self._error(call.error)}
        self._duration.record(call.duration_s, attributes | error)
        if call.first_chunk_s is not None:
            self._first_chunk.record(call.first_chunk_s, attributes)
        for chunk_s in call.chunks_s:
            self._next_chunk.record(chunk_s, attributes)
        for kind, count in (("input", call.usage.input), ("output", call.usage.output)):
            if count is not None:
                self._tokens.record(count, attributes | {names.TOKEN_TYPE: kind})


def _histogram(meter: Meter, name: str, unit: str, description: str, bounds: Sequence[float]) -> Histogram:
    return meter.create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=bounds)
