"""The span around one stage's judging, with one event for each policy that fired or erred."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, Tracer, get_current_span
from opentelemetry.util.types import AttributeValue

from guardrail.telemetry import names
from guardrail.telemetry.capture import Capture, cut, messages_json
from guardrail.telemetry.names import GuardNames
from guardrail.telemetry.scope import Scope
from guardrail.telemetry.summary import error_code, findings, reading_word, short, words
from guardrail.types import Action, Decision, Mode, Part, Provenance, Route, Stage, Verdict

MAX_EVENTS: Final = 64


@dataclass(frozen=True, slots=True)
class Style:
    """How guard spans are written. `remote` holds host and port of the classifiers that run on a server; calls to them are CLIENT spans."""

    spelling: GuardNames
    capture: Capture = Capture.OFF
    debug: bool = False
    remote: Mapping[str, tuple[str, int | None]] = field(default_factory=dict)


class GuardSpan(Scope):
    """`apply_guardrail {classifier}`: open it before judging and tell it the decision."""

    def __init__(self, tracer: Tracer, route: Route, stage: Stage, style: Style, *, current: bool = True) -> None:
        self._server = style.remote.get(route.classifier)
        kind = SpanKind.INTERNAL if self._server is None else SpanKind.CLIENT
        super().__init__(tracer, style.spelling.span(route.classifier, stage), kind, current=current)
        self._route = route
        self._stage = stage
        self._spelling = style.spelling
        self._capture = style.capture
        self._debug = style.debug
        self._request: Span = INVALID_SPAN
        self._windows = 0

    def __enter__(self) -> Self:
        self._request = get_current_span()
        return super().__enter__()

    def _first_attributes(self) -> Mapping[str, AttributeValue]:
        spelling = self._spelling
        address, port = self._server or (None, None)
        return named(
            (names.SERVER_ADDRESS, address),
            (names.SERVER_PORT, port),
            (spelling.operation, names.APPLY),
            (spelling.provider, names.GUARD_PROVIDER),
            (spelling.component, self._route.classifier),
            (spelling.source, spelling.sources[self._stage]),
            (names.SOURCE, self._stage.value),
            (names.ROUTE, self._route.name),
            (names.GENERATION, self._route.generation),
        )

    def window(self, number: int, end: int, action: Action, *, unjudged: bool) -> None:
        """One window of a growing answer was judged: which, up to which character of its part, and what that came to."""
        self._windows += 1
        if self._windows <= MAX_EVENTS:
            told: dict[str, AttributeValue] = {
                names.WINDOW_INDEX: number,
                names.WINDOW_END: end,
                names.ACTION: action.word,
                names.UNJUDGED: unjudged,
            }
            self._span.add_event(names.WINDOW, told)

    def decided(self, decision: Decision, parts: Sequence[Part] = ()) -> None:
        """Record the decision. `parts` is the judged text; it is looked at only where content may be captured."""
        if not self._span.is_recording():
            return
        if decision.outcome.unjudged or decision.action >= Action.REDACT:
            for span in (self._span, self._request):
                span.set_attribute(names.KEEP, True)
        fired, verdicts = decision.violations, decision.verdicts
        self._span.set_attributes(self._summary(decision, fired))
        failed = next((verdict for verdict in verdicts if verdict.error is not None), None)
        if failed is not None:
            self._failed(error_code(failed.error))
        if self._capture.on_span and parts:
            self._span.set_attribute(names.MESSAGES[self._stage], messages_json(parts))
        evaluation = self._spelling.evaluation
        watching = evaluation is not None and Mode.SHADOW in [verdict.mode for verdict in verdicts]
        if not (self._debug or fired or failed or watching):  # nearly always
            return
        found = findings(decision, everything=True)
        telling = [verdict for verdict in found if self._debug or verdict.violation or verdict.error is not None]
        for verdict in telling[:MAX_EVENTS]:
            self._span.add_event(self._spelling.event, self._result(verdict, parts))
        if evaluation is not None:
            watched = [verdict for verdict in found if verdict.mode is Mode.SHADOW]
            for verdict in watched[:MAX_EVENTS]:
                self._span.add_event(evaluation, _evaluation(verdict))

    def _summary(self, decision: Decision, fired: Sequence[Verdict]) -> dict[str, AttributeValue]:
        """The decision in attributes."""
        said, spelling = words(decision.outcome), self._spelling
        told: dict[str, AttributeValue] = {
            names.DECISION: said.decision,
            names.ENFORCED: said.enforced,
            names.MODE: said.mode.value,
            names.UNJUDGED: decision.outcome.unjudged,
            names.UNAVAILABLE: decision.outcome.unavailable,
            names.UNSCANNABLE: len(decision.unscannable),
            names.VERDICTS: len(decision.verdicts),
            names.VIOLATIONS: len(fired),
            names.DECISION_ID: decision.id,
            names.TENANT: decision.tenant,
        }
        if spelling.result_type is not None:
            told[spelling.result_type] = names.RESULT_FIELD
        if spelling.result_value is not None:
            told[spelling.result_value] = spelling.results[decision.action]
        if fired and spelling.policy_id is not None:
            told[spelling.policy_id] = fired[0].policy_id
        if fired and spelling.policy_version is not None:
            told[spelling.policy_version] = fired[0].policy_version
        return told

    def _result(self, verdict: Verdict, parts: Sequence[Part]) -> dict[str, AttributeValue]:
        spelling = self._spelling
        action = verdict.action if verdict.violation else Action.PASS
        judged = verdict.error is None
        attributes = named(
            (names.POLICY_ID, verdict.policy_id),
            (names.POLICY_VERSION, verdict.policy_version),
            (names.POLICY_DIGEST, verdict.policy_digest),
            (names.SOURCE, self._stage.value),
            (names.ACTION, action.word if judged else None),
            (names.MODE, verdict.mode.value),
            (names.SCORE, verdict.score),
            (names.THRESHOLD, verdict.threshold),
            (names.CRITERION, verdict.criterion and short(verdict.criterion)),
            (names.PART, short(verdict.part)),
            (names.CLASSIFIER, verdict.classifier),
            (names.ERROR_TYPE, None if judged else error_code(verdict.error)),
            (names.FLAGS, verdict.flags or None),
            (names.READING, reading_word(verdict)),
            *_origin(verdict.provenance),
            (spelling.component, self._route.classifier),
            (spelling.provider, names.GUARD_PROVIDER),
            (spelling.source, spelling.sources[self._stage]),
            (spelling.policy_id, verdict.policy_id),
            (spelling.policy_version, verdict.policy_version),
            (spelling.rule_id, verdict.criterion and short(verdict.criterion)),
            (spelling.result_type, names.RESULT_FIELD if judged else None),
            (spelling.result_value, spelling.results[action] if judged else None),
            (spelling.reason, (names.REACHED if verdict.violation else names.NOT_REACHED) if judged else None),
            (spelling.risk_category, verdict.policy_id),
            (spelling.risk_score, verdict.score),
        )
        text = _text_of(verdict, parts) if self._capture.on_event else None
        if text is not None:
            attributes[spelling.content[self._stage]] = cut(text)
        return attributes


def named(*pairs: tuple[str | None, AttributeValue | None]) -> dict[str, AttributeValue]:
    """The pairs that have both a name in this spelling and a value."""
    return {name: value for name, value in pairs if name is not None and value is not None}


def _evaluation(verdict: Verdict) -> dict[str, AttributeValue]:
    """A score that was only watched, as an evaluation."""
    judged = verdict.error is None
    return named(
        (names.EVALUATION_NAME, verdict.policy_id),
        (names.EVALUATION_SCORE, verdict.score),
        (names.EVALUATION_LABEL, (names.REACHED if verdict.violation else names.NOT_REACHED) if judged else None),
        (names.ERROR_TYPE, None if judged else error_code(verdict.error)),
        (names.POLICY_VERSION, verdict.policy_version),
    )


def _origin(provenance: Provenance | None) -> tuple[tuple[str, AttributeValue | None], ...]:
    if provenance is None:
        return ()
    return (names.TEMPLATE, provenance.template or None), (names.BUCKET, provenance.bucket or None), (names.OUTSIDE, provenance.outside)


def _text_of(verdict: Verdict, parts: Iterable[Part]) -> str | None:
    return next((part.text for part in parts if part.path == verdict.part and part.choice == verdict.choice), None)
