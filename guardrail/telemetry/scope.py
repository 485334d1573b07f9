"""One span as a `with` block that never records what an exception says."""

from collections.abc import Mapping
from contextvars import Token
from types import TracebackType
from typing import Final, Self

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.util.types import AttributeValue

from guardrail.errors import ClassifierError, UpstreamError, WireError
from guardrail.telemetry import names
from guardrail.telemetry.summary import error_code

CANCELLED: Final = "cancelled"


class Scope:
    """Starts its span on entry and ends it on exit; not reusable.

    An exception sets `error.type` to its code or its class and the status to ERROR, and goes on. Its message and its traceback
    are left out, because both may quote a prompt or a key. `current`: the span is the parent of what starts inside the block.
    """

    def __init__(self, tracer: Tracer, name: str, kind: SpanKind, *, current: bool = True) -> None:
        self._tracer = tracer
        self._name = name
        self._kind = kind
        self._current = current
        self._parent: Context | None = None
        self._links: tuple[Link, ...] = ()
        self._span: Span = INVALID_SPAN
        self._token: Token[Context] | None = None

    def _first_attributes(self) -> Mapping[str, AttributeValue]:
        """Attributes known at the start, where a sampler can see them."""
        return {}

    def _closing(self, error: str | None) -> None:
        """Called once before the span ends, with the code of what broke the block off, if anything did."""

    @property
    def span(self) -> Span:
        """The span itself; an invalid one outside the block."""
        return self._span

    def __enter__(self) -> Self:
        self._span = self._tracer.start_span(
            self._name, context=self._parent, kind=self._kind, attributes=self._first_attributes(), links=self._links
        )
        if self._current:
            self._token = otel_context.attach(set_span_in_context(self._span, self._parent))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._token is not None:
            otel_context.detach(self._token)
            self._token = None
        code = None if kind is None else exception_code(kind, error)
        if code is not None:
            self._failed(code)
        self._closing(code)
        self._span.end()

    def _failed(self, code: str) -> None:
        self._span.set_attribute(names.ERROR_TYPE, code)
        self._span.set_status(Status(StatusCode.ERROR))


def exception_code(kind: type[BaseException], error: BaseException | None) -> str:
    """The stable code of one of our errors, `cancelled`, or the name of the class. Never the message."""
    if isinstance(error, (ClassifierError, UpstreamError, WireError)):
        return error_code(error.code)
    return CANCELLED if kind.__name__ in ("CancelledError", "GeneratorExit") else kind.__name__
