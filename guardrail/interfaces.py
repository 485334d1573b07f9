"""The seam between the guard and whatever scores. (The observers' seam, `EventSink`, stands beside the events it carries.)"""

from collections.abc import Sequence
from typing import Protocol

from guardrail.errors import ClassifierError
from guardrail.types import ClassifyRequest, Policy, Score


class Classifier(Protocol):
    """Anything that scores. It never thresholds and never decides."""

    @property
    def id(self) -> str:
        """Name and weights digest (`embedded@sha256:1f2e…`), written into every score and record."""
        ...

    async def prepare(self, policies: Sequence[Policy]) -> None:
        """Make policies resident and warm before they are published. Raises ClassifierError when one cannot be served."""
        ...

    async def classify(self, requests: Sequence[ClassifyRequest], *, deadline: float) -> list[Score | ClassifierError]:
        """One entry a request, in order: a score, or the error that stands in for it.

        `deadline` is a `time.monotonic()` instant; what is not scored by then is `ClassifierError("timeout", …)`.
        A whole-batch failure may be raised instead; the guard turns it into an error for each request.
        """
        ...

    async def aclose(self) -> None:
        """Free threads, memory and connections. Idempotent."""
        ...
