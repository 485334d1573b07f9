"""What is so at this moment, asked of the running guard when somebody collects: nothing is spent on it in between."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from guardrail.interfaces import Workload
from guardrail.telemetry import names


@dataclass(frozen=True, slots=True)
class State:
    """The guard at one moment. `generation` and `digest` are of the policies in force, `workloads` are the classifiers' by name.

    `audit_waiting`: records that are not written yet, None where no store is kept.
    """

    in_flight: int
    generation: int
    digest: str
    policies: int
    workloads: Mapping[str, Workload] = field(default_factory=dict)
    audit_waiting: int | None = None


class Gauges:
    """The observable instruments. `state` is asked at each of them; None (nothing runs) tells nothing."""

    def __init__(self, meter: Meter) -> None:
        self.state: Callable[[], State | None] = lambda: None
        self._add(meter, names.IN_FLIGHT, "{request}", "Requests being served", lambda state: [(state.in_flight, {})])
        self._add(meter, names.POLICY_GENERATION, "{generation}", "How often this process has put policies into force", _generation)
        self._add(meter, names.POLICIES_IN_FORCE, "{policy}", "Policies in force, by the digest of all of them", _in_force)
        self._add(meter, names.QUEUE_DEPTH, "{call}", "Calls that a classifier has in hand", _queue)
        self._add(meter, names.QUEUE_TOKENS, "{token}", "Tokens that wait for an engine's next pass", _tokens)
        self._add(meter, names.AUDIT_QUEUE, "{record}", "Records that the audit store has yet to write", _audit)

    def _add(self, meter: Meter, name: str, unit: str, description: str, tell: Callable[[State], Iterable["_Told"]]) -> None:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            state = self.state()
            return [] if state is None else [Observation(value, dict(attributes)) for value, attributes in tell(state)]

        meter.create_observable_gauge(name, [observe], unit, description)


_Told = tuple[int, Mapping[str, str]]


def _generation(state: State) -> Iterable[_Told]:
    return [(state.generation, {})]


def _in_force(state: State) -> Iterable[_Told]:
    return [(state.policies, {names.POLICIES_DIGEST: state.digest})]


def _queue(state: State) -> Iterable[_Told]:
    return [(load.calls, {names.CLASSIFIER: name}) for name, load in state.workloads.items() if load.calls is not None]


def _tokens(state: State) -> Iterable[_Told]:
    return [(load.tokens, {names.CLASSIFIER: name}) for name, load in state.workloads.items() if load.tokens is not None]


def _audit(state: State) -> Iterable[_Told]:
    return [] if state.audit_waiting is None else [(state.audit_waiting, {})]
