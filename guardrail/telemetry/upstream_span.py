"""The span around one call to the guarded model's API, and the trace context that goes with it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, TypedDict
from urllib.parse import urlsplit

from opentelemetry.trace import SpanKind, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from guardrail.telemetry import names
from guardrail.telemetry.calls import UpstreamCall, Usage, read_usage
from guardrail.telemetry.guard_span import named
from guardrail.telemetry.scope import Scope
from guardrail.telemetry.summary import short

MAX_FINISH_REASONS: Final = 16
MAX_CHUNKS: Final = 4096  # whose times are kept; of a longer stream the first ones
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_FIELDS: Final = frozenset(_PROPAGATOR.fields)
_NUMBERS: Final = frozenset((*names.REQUEST_FLOATS, *names.REQUEST_INTS))
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Target:
    """What is called. `server` is a URL or `host:port` (only host and port are kept), None for a model in this process.

    `body` is the request body: of it only numeric parameters, the stream flag and whether JSON is asked for are read.
    """

    model: str
    provider: str
    server: str | None = None
    operation: str = "chat"
    body: Mapping[str, object] = field(default_factory=dict)


class Said(TypedDict):
    """What an answer says of itself."""

    response_id: str | None
    model: str | None


class UpstreamSpan(Scope):
    """`chat {model}`: open it before the call, keep it open until the last byte. It is never made current, so that it may
    be left from another task than it was entered in. After the block `call` holds the finished call for the metrics."""

    def __init__(self, tracer: Tracer, target: Target) -> None:
        model = short(target.model)
        super().__init__(tracer, f"{target.operation} {model}", SpanKind.CLIENT, current=False)
        self._target = target
        self._model = model
        self._server = parse_server(target.server)
        self._began = time.monotonic()
        self._streams = target.body.get("stream") is True
        self._last_chunk = 0.0
        self._first_chunk_s: float | None = None
        self._chunks_s: list[float] = []
        self._response_model: str | None = None
        self._usage = Usage()
        self._error: str | None = None
        self._call: UpstreamCall | None = None

    def _first_attributes(self) -> Mapping[str, AttributeValue]:
        self._began = time.monotonic()
        address, port = self._server or (None, None)
        attributes = named(
            (names.OPERATION, self._target.operation),
            (names.PROVIDER, self._target.provider),
            (names.REQUEST_MODEL, self._model),
            (names.SERVER_ADDRESS, address),
            (names.SERVER_PORT, port),
            (names.REQUEST_STREAM, True if self._streams else None),
            (names.OUTPUT_TYPE, output_type(self._target.body)),
        )
        return attributes | request_numbers(self._target.body)

    def inject(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers with this span's `traceparent` and `tracestate` in place of any that the client sent."""
        kept = {name: value for name, value in headers.items() if name.lower() not in _FIELDS}
        _PROPAGATOR.inject(kept, set_span_in_context(self._span))
        return kept

    def chunk(self) -> None:
        """A piece of a streamed answer arrives. Nothing of an answer that was not asked for as a stream."""
        if not self._streams:
            return
        now = time.monotonic()
        if self._first_chunk_s is None:
            self._first_chunk_s = now - self._began
            self._span.set_attribute(names.TIME_TO_FIRST_CHUNK, self._first_chunk_s)
        elif len(self._chunks_s) < MAX_CHUNKS:
            self._chunks_s.append(now - self._last_chunk)
        self._last_chunk = now

    def answered(
        self,
        status: int,
        usage: Mapping[str, object] | None = None,
        finish_reasons: Sequence[str] = (),
        *,
        response_id: str | None = None,
        model: str | None = None,
    ) -> None:
        """Record the answer: HTTP status, the `usage` object as it came, finish reasons, the answer's id and model."""
        self._usage = read_usage(usage)
        self._response_model = model and short(model)
        if status >= 400:
            self._error = str(status)
            self._failed(self._error)
        self._span.set_attributes(
            named(
                (names.HTTP_STATUS, status),
                (names.RESPONSE_ID, response_id and short(response_id)),
                (names.RESPONSE_MODEL, self._response_model),
                (names.FINISH_REASONS, tuple(short(reason, 64) for reason in finish_reasons[:MAX_FINISH_REASONS]) or None),
                (names.INPUT_TOKENS, self._usage.input),
                (names.OUTPUT_TOKENS, self._usage.output),
                (names.CACHE_READ_TOKENS, self._usage.cache_read),
                (names.CACHE_CREATION_TOKENS, self._usage.cache_creation),
                (names.REASONING_TOKENS, self._usage.reasoning),
            )
        )

    def _closing(self, error: str | None) -> None:
        self._call = UpstreamCall(
            operation=self._target.operation,
            model=self._model,
            provider=self._target.provider,
            server=self._server,
            duration_s=time.monotonic() - self._began,
            first_chunk_s=self._first_chunk_s,
            chunks_s=tuple(self._chunks_s),
            response_model=self._response_model,
            error=error or self._error,
            usage=self._usage,
        )

    @property
    def call(self) -> UpstreamCall:
        """The finished call. Raises RuntimeError inside the block: it is not over yet."""
        if self._call is None:
            raise RuntimeError("the upstream call is not over: read `call` after its with block")
        return self._call


def said_of(head: Mapping[str, object]) -> Said:
    """An answer's `id` and `model`, for `answered`; None for what is no string."""
    response_id, model = head.get("id"), head.get("model")
    return {"response_id": response_id if isinstance(response_id, str) else None, "model": model if isinstance(model, str) else None}


def request_numbers(body: Mapping[str, object]) -> dict[str, AttributeValue]:
    """The numeric parameters of a request body under their names; a value of another type is left out."""
    found: dict[str, AttributeValue] = {}
    if _NUMBERS.isdisjoint(body):
        return found
    for key, name in names.REQUEST_FLOATS.items():
        value = body.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            found[name] = float(value)
    for key, name in names.REQUEST_INTS.items():
        value = body.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 and (key, value) != ("n", 1):
            found[name] = value
    return found


def output_type(body: Mapping[str, object]) -> str | None:
    """`json` where the request asks for it, in the shape of chat completions or of responses."""
    text = body.get("text")
    wanted = body.get("response_format") or (text.get("format") if isinstance(text, Mapping) else None)
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    return "json" if kind in ("json_object", "json_schema") else None


@lru_cache(256)
def parse_server(server: str | None) -> tuple[str, int | None] | None:
    """Host and port of a URL or `host:port`; credentials, path and query are dropped. None for nothing or nonsense."""
    if not server:
        return None
    try:
        parts = urlsplit(server if "://" in server else f"//{server}")
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname else None
