"""A counter whose adding costs a dictionary's entry: the SDK's own costs more than all else that is done about a decision."""

from collections.abc import Iterable, Mapping

from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.util.types import AttributeValue

from guardrail.telemetry.spread import Labels


class Tally:
    """Counts here, and tells when somebody collects. Never goes down. For one thread that adds; any thread may collect."""

    def __init__(self, meter: Meter, name: str, unit: str, description: str) -> None:
        self._counts: dict[Labels, int] = {}
        meter.create_observable_counter(name, [self._observe], unit, description)

    def add(self, number: int, attributes: Mapping[str, AttributeValue] | None = None) -> None:
        """Count `number` more under these attributes, which must be bounded in their values, and in one order at each place."""
        self.count(tuple(attributes.items()) if attributes else (), number)

    def count(self, labels: Labels, number: int = 1) -> None:
        """`add` with attributes that were put together before."""
        self._counts[labels] = self._counts.get(labels, 0) + number

    def _observe(self, _: CallbackOptions) -> Iterable[Observation]:
        together: dict[frozenset[tuple[str, AttributeValue]], int] = {}
        for key, count in self._counts.copy().items():
            attributes = frozenset(key)
            together[attributes] = together.get(attributes, 0) + count
        return [Observation(count, dict(attributes)) for attributes, count in together.items()]
