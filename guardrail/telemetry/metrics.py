"""Counters, histograms and gauges from the events of the core and from finished upstream calls.

A violation, a technical error and an unjudged text are three different counters: none of them is ever counted as another.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple, Protocol

from opentelemetry.metrics import Histogram, Meter, MeterProvider, get_meter

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
from guardrail.telemetry.spread import Labels, Spreads
from guardrail.telemetry.summary import Words, error_code, reading_word, told_apart, words
from guardrail.telemetry.tally import Tally
from guardrail.types import Action, Decision, Mode, Stage


class Metrics:
    """An event sink. `meter_provider` None means the process-wide one. Cheap, thread-safe enough to be called from anywhere.

    With `spreads` histograms are made there: whoever exports has to collect them there, too.
    """

    def __init__(self, meter_provider: MeterProvider | None = None, spreads: Spreads | None = None) -> None:
        meter = get_meter(names.SCOPE, meter_provider=meter_provider)
        histogram = partial(_histogram, meter) if spreads is None else spreads.histogram
        self._decisions = _Decisions(meter, histogram)
        self._happenings = _Happenings(meter)
        self._calls = _Calls(histogram)
        self._work = _Work(meter, histogram)
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


class Recording(Protocol):
    """A histogram."""

    def record(self, amount: float, labels: Labels) -> None:
        """One more value."""
        ...


class MakeHistogram(Protocol):
    """Makes one."""

    def __call__(self, name: str, unit: str, description: str, bounds: Sequence[float]) -> Recording:
        """The histogram of that name."""
        ...


class _Bound(NamedTuple):
    """The labels of a decision for each instrument that counts it."""

    where: Labels
    request: Labels
    duration: Labels
    enforced: Labels


class _Decisions:
    """What was decided, by whom, how fast, and what could not be."""

    def __init__(self, meter: Meter, histogram: MakeHistogram) -> None:
        self._requests = Tally(meter, names.REQUESTS, "{decision}", "Decisions by what the policies said and what was done")
        self._results = Tally(meter, names.POLICY_RESULTS, "{result}", "Judged results by policy; a policy that erred has none")
        self._violations = Tally(meter, names.VIOLATION_COUNT, "{violation}", "Policies whose threshold was reached")
        self._errors = Tally(meter, names.ERROR_COUNT, "{error}", "Verdicts that are a technical error")
        self._truncated = Tally(meter, names.TRUNCATED_COUNT, "{decision}", "Decisions over a text that limits left a reading of unread")
        self._unjudged = Tally(meter, names.UNJUDGED_COUNT, "{decision}", "Decisions over something that was not judged")
        self._duration = histogram(names.DECISION_DURATION, "s", "Time from asking to deciding one stage", names.DECISION_BUCKETS)
        self._score = histogram(names.TOP_SCORE, "1", "The highest score of a decision", names.SCORE_BUCKETS)
        self._route = Distinct(IDS)
        self._tenant = Distinct(IDS)
        self._policy = Distinct(IDS)
        self._reading = Distinct(CLIENT_WORDS)
        # What a decision is counted under hardly ever changes, and to put it together costs more than to count.
        self._bound = lru_cache(IDS)(self._bind)
        self._result = lru_cache(IDS)(self._bind_result)
        self._top = lru_cache(IDS)(self._bind_top)

    def count(self, decision: Decision) -> None:
        said, stage = words(decision.outcome), decision.stage
        bound = self._bound(stage, decision.route, decision.tenant, said)
        self._requests.count(bound.request)
        self._duration.record(decision.duration_s, bound.duration)
        if decision.outcome.unjudged:
            self._unjudged.count(bound.enforced)
        judged, _ = told_apart(decision)
        if judged:
            top = max(judged, key=lambda verdict: verdict.score or 0.0)
            self._score.record(top.score or 0.0, self._top(stage, top.policy_id))
        for verdict in judged:
            violation = verdict.violation
            policy = self._result(stage, verdict.policy_id, verdict.action if violation else Action.PASS, verdict.mode)
            self._results.count(policy)
            if violation:
                read = reading_word(verdict)
                self._violations.count(policy if read is None else (*policy, (names.READING, self._reading(read))))
        truncated = False
        for verdict in decision.verdicts:
            if verdict.error is not None:
                self._errors.add(1, {names.SOURCE: stage.value, names.ERROR_TYPE: error_code(verdict.error)})
            truncated |= TRUNCATED in verdict.flags
        if truncated:
            self._truncated.count(bound.where)

    def _bind(self, stage: Stage, route: str, tenant: str, said: Words) -> _Bound:
        source, place = (names.SOURCE, stage.value), (names.ROUTE, self._route(route))
        where = source, place, (names.TENANT, self._tenant(tenant))
        decided, enforced = (names.DECISION, said.decision), (names.ENFORCED, said.enforced)
        return _Bound(where, (*where, decided, enforced, (names.MODE, said.mode.value)), (source, place, decided), (*where, enforced))

    def _bind_result(self, stage: Stage, policy: str, action: Action, mode: Mode) -> Labels:
        known = (names.POLICY_ID, self._policy(policy))
        return (names.SOURCE, stage.value), known, (names.ACTION, action.word), (names.MODE, mode.value)

    def _bind_top(self, stage: Stage, policy: str) -> Labels:
        return (names.SOURCE, stage.value), (names.POLICY_ID, self._policy(policy))


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

    def __init__(self, meter: Meter, histogram: MakeHistogram) -> None:
        self._hits = Tally(meter, names.CACHE_HITS, "{score}", "Scores that were known, and not asked for")
        self._misses = Tally(meter, names.CACHE_MISSES, "{score}", "Scores that a classifier was asked for")
        self._evictions = Tally(meter, names.CACHE_EVICTIONS, "{score}", "Scores forgotten to make room")
        self._batch = histogram(names.BATCH_SIZE, "{question}", "Questions in one call of a classifier", names.BATCH_BUCKETS)
        self._asked = histogram(names.CLASSIFIER_DURATION, "s", "Duration of one call of a classifier", names.DECISION_BUCKETS)
        most = "Most characters of a streamed answer that waited for their verdict"
        self._held = histogram(names.HELD, "{character}", most, names.HELD_BUCKETS)
        self._overhead = histogram(names.OVERHEAD_DURATION, "s", "What guarding added to a request", names.DECISION_BUCKETS)
        self._classifier = lru_cache(IDS)(partial(_bind_id, names.CLASSIFIER, Distinct(IDS)))
        self._route = lru_cache(IDS)(partial(_bind_id, names.ROUTE, Distinct(IDS)))

    def count(self, event: CacheUsed | ClassifierAsked | AnswerHeld) -> None:
        match event:
            case CacheUsed():
                for counter, number in ((self._hits, event.hits), (self._misses, event.misses), (self._evictions, event.evictions)):
                    if number:
                        counter.count((), number)
            case ClassifierAsked():
                classifier = self._classifier(event.classifier)
                self._batch.record(event.questions, classifier)
                self._asked.record(event.duration_s, classifier)
            case AnswerHeld():
                self._held.record(event.held, (*self._route(event.route), (names.STREAM_MODE, event.mode)))

    def served(self, route: str, overhead_s: float) -> None:
        self._overhead.record(overhead_s, self._route(route))


class _Calls:
    """The conventions' client metrics."""

    def __init__(self, histogram: MakeHistogram) -> None:
        self._duration = histogram(names.CLIENT_DURATION, "s", "Duration of an upstream call", names.CLIENT_BUCKETS)
        self._first_chunk = histogram(names.CLIENT_FIRST_CHUNK, "s", "Time to the first chunk", names.CLIENT_BUCKETS)
        self._next_chunk = histogram(names.CLIENT_NEXT_CHUNK, "s", "Time from one chunk to the next", names.CHUNK_BUCKETS)
        self._tokens = histogram(names.CLIENT_TOKENS, "{token}", "Tokens of an upstream call", names.TOKEN_BUCKETS)
        self._model = Distinct(CLIENT_WORDS)
        self._error = Distinct(CLIENT_WORDS)

    def count(self, call: UpstreamCall) -> None:
        # Only a model that an upstream has answered for takes one of the places: invented names cannot crowd out real ones.
        model = self._model(call.model, admit=call.error is None)
        labels: Labels = ((names.OPERATION, call.operation), (names.PROVIDER, call.provider), (names.REQUEST_MODEL, model))
        if call.server is not None:
            address, port = call.server
            labels = (*labels, (names.SERVER_ADDRESS, address), *(() if port is None else ((names.SERVER_PORT, port),)))
        self._duration.record(call.duration_s, labels if call.error is None else (*labels, (names.ERROR_TYPE, self._error(call.error))))
        if call.first_chunk_s is not None:
            self._first_chunk.record(call.first_chunk_s, labels)
        for chunk_s in call.chunks_s:
            self._next_chunk.record(chunk_s, labels)
        for kind, count in (("input", call.usage.input), ("output", call.usage.output)):
            if count is not None:
                self._tokens.record(count, (*labels, (names.TOKEN_TYPE, kind)))


def _bind_id(name: str, known: Distinct, value: str) -> Labels:
    return ((name, known(value)),)


class _Instrument:
    """A histogram of OpenTelemetry's."""

    def __init__(self, inner: Histogram) -> None:
        self._inner = inner

    def record(self, amount: float, labels: Labels) -> None:
        self._inner.record(amount, dict(labels))


def _histogram(meter: Meter, name: str, unit: str, description: str, bounds: Sequence[float]) -> Recording:
    return _Instrument(meter.create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=bounds))
