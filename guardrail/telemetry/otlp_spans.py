"""Spans as OTLP's protobuf, byte for byte what the SDK makes of them, at a fifth of its cost: most of a span was written before.

Messages of protobuf can be put together of pieces that were encoded on their own, so that an attribute that comes again (a route, an
action, a policy) is encoded once. A tag below is a field of `opentelemetry/proto/trace/v1/trace.proto` with its wire type.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, cast

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status

from guardrail.telemetry import names

_KINDS: Final = {
    SpanKind.INTERNAL: b"\x30\x01",
    SpanKind.SERVER: b"\x30\x02",
    SpanKind.CLIENT: b"\x30\x03",
    SpanKind.PRODUCER: b"\x30\x04",
    SpanKind.CONSUMER: b"\x30\x05",
}
_BYTE: Final = [bytes((number,)) for number in range(128)]
_SIZE: Final = [*_BYTE, *(bytes((number & 127 | 128, number >> 7)) for number in range(128, 2_048))]
_IDS: Final = struct.Struct("<2s16s2s8s").pack
_TIMES: Final = struct.Struct("<cQcQ").pack
_TIME: Final = struct.Struct("<Q").pack
_NUMBER: Final = struct.Struct("<d").pack
_FLAGS: Final = struct.Struct("<I").pack
_LOCAL, _REMOTE = 0x100, 0x300  # that it is known whether a parent is remote, and that it is
_REMEMBERED: Final = 4_096
_SHORT: Final = 100  # characters of the longest text that is worth remembering
_UNIQUE: Final = frozenset({names.DECISION_ID, names.REQUEST_ID, names.RESPONSE_ID, *names.MESSAGES.values()})  # what never comes again
_STEADY: Final[Mapping[str, type]] = {  # what has values of one kind, and few of them
    names.FINISH_REASONS: tuple,
    names.GENERATION: int,
    names.HTTP_STATUS: int,
    names.INPUT_TOKENS: int,
    names.OUTPUT_TOKENS: int,
    names.SERVER_PORT: int,
    names.UNAVAILABLE: bool,
    names.UNJUDGED: bool,
    names.UNSCANNABLE: int,
    names.VERDICTS: int,
    names.VIOLATIONS: int,
}
_known: Final[dict[tuple[str, object], bytes]] = {}


def encode_span(span: ReadableSpan) -> bytes:
    """One `Span`, with the tag that puts it into its `ScopeSpans`."""
    assert span.context is not None
    (trace, own, _, _, state, _), parent = span.context, span.parent
    pieces = [_IDS(b"\x0a\x10", trace.to_bytes(16, "big"), b"\x12\x08", own.to_bytes(8, "big"))]
    if state:
        pieces.append(_text(b"\x1a", ",".join(f"{name}={value}" for name, value in state.items())))
    if parent:
        pieces.append(b"\x22\x08" + parent.span_id.to_bytes(8, "big"))
    pieces += _named(span.name), _KINDS[span.kind], _TIMES(b"\x39", span.start_time or 0, b"\x41", span.end_time or 0)
    if attributes := span.attributes:
        pieces += _of_span(attributes)
    if dropped := span.dropped_attributes:
        pieces += b"\x50", _varint(dropped)
    if events := span.events:
        pieces += [_field(b"\x5a", _event(event)) for event in events]
    if dropped := span.dropped_events:
        pieces += b"\x60", _varint(dropped)
    if links := span.links:
        pieces += [_field(b"\x6a", _link(link)) for link in links]
    if dropped := span.dropped_links:
        pieces += b"\x70", _varint(dropped)
    pieces += _status(span.status), b"\x85\x01", _flags(parent)
    return _field(b"\x12", b"".join(pieces))


def encode_request(resource: Resource, scope: InstrumentationScope | None, spans: Iterable[bytes]) -> bytes:
    """One `ExportTraceServiceRequest` of encoded spans, which are all of one resource and one scope."""
    pieces: list[bytes] = []
    _attributes(pieces, b"\x0a", resource.attributes)
    about = _field(b"\x0a", b"".join(pieces))
    within = _field(b"\x12", _scope(scope) + b"".join(spans) + _some(b"\x1a", scope.schema_url if scope else None))
    return _field(b"\x0a", about + within + _some(b"\x1a", resource.schema_url))


def _scope(scope: InstrumentationScope | None) -> bytes:
    if scope is None:
        return b"\x0a\x00"
    pieces = [_some(b"\x0a", scope.name), _some(b"\x12", scope.version)]
    _attributes(pieces, b"\x1a", scope.attributes or {})
    return _field(b"\x0a", b"".join(pieces))


def _event(event: Event) -> bytes:
    pieces = [b"\x09", _TIME(event.timestamp)] if event.timestamp else []
    pieces.append(_some(b"\x12", event.name))
    _attributes(pieces, b"\x1a", event.attributes or {})
    if event.dropped_attributes:
        pieces += b"\x20", _varint(event.dropped_attributes)
    return b"".join(pieces)


def _link(link: Link) -> bytes:
    pieces = [b"\x0a\x10", link.context.trace_id.to_bytes(16, "big"), b"\x12\x08", link.context.span_id.to_bytes(8, "big")]
    _attributes(pieces, b"\x22", link.attributes or {})
    if link.dropped_attributes:
        pieces += b"\x28", _varint(link.dropped_attributes)
    return b"".join((*pieces, b"\x35", _flags(link.context)))


def _status(status: Status) -> bytes:
    if status.is_unset and not status.description:
        return b"\x7a\x00"
    code = status.status_code.value
    return _field(b"\x7a", _some(b"\x12", status.description) + (b"\x18" + _BYTE[code] if code else b""))


def _flags(context: SpanContext | None) -> bytes:
    return _FLAGS(_REMOTE if context is not None and context.is_remote else _LOCAL)


def _attributes(pieces: list[bytes], tag: bytes, attributes: Mapping[str, Any]) -> None:
    """Each as a `KeyValue`."""
    pieces += [_fresh(tag, name, value) for name, value in attributes.items()]


def _of_span(attributes: Mapping[str, Any]) -> list[bytes]:
    """As `_attributes`, of a span. What may come again is remembered, until there is too much of it."""
    items = list(attributes.items())
    try:
        found = list(map(_known.get, items))
    except TypeError:  # a list among the values
        found = [None] * len(items)
    for place, written in enumerate(found):
        if written is None:
            name, value = item = items[place]
            found[place] = fresh = _fresh(b"\x4a", name, value)
            # Equal values of different kinds (True, 1) are not the same on the wire.
            if (type(value) is str and len(value) <= _SHORT and name not in _UNIQUE) or type(value) is _STEADY.get(name):
                if len(_known) >= _REMEMBERED:
                    _known.clear()
                _known[item] = fresh
    return cast("list[bytes]", found)


def _fresh(tag: bytes, name: str, value: object) -> bytes:
    """A `KeyValue`: of a short text or of a number at once, of anything else by its parts."""
    key, kind = _key(name), type(value)
    if kind is float and len(key) < 100:
        return b"".join((tag, _BYTE[len(key) + 11], key, b"\x12\x09\x21", _NUMBER(value)))
    if kind is str:
        content = cast("str", value).encode("utf-8", "replace")
        size = len(content)
        if len(key) + size < 120:
            return b"".join((tag, _BYTE[len(key) + size + 4], key, b"\x12", _BYTE[size + 2], b"\x0a", _BYTE[size], content))
    return _field(tag, _pair(name, value))


@lru_cache(1024)
def _key(name: str) -> bytes:
    return _some(b"\x0a", name)


def _pair(name: str, value: object) -> bytes:
    return _key(name) + _field(b"\x12", _value(value))


def _value(value: object) -> bytes:
    """An `AnyValue`."""
    match value:
        case str():
            return _text(b"\x0a", value)
        case bool():
            return b"\x10\x01" if value else b"\x10\x00"
        case int() if -(2**63) <= value < 2**63:
            return b"\x18" + _varint(value & 0xFFFF_FFFF_FFFF_FFFF)
        case float():
            return b"\x21" + _NUMBER(value)
        case None:
            return b""
        case bytes():
            return _field(b"\x3a", value)
        case Sequence():
            return _field(b"\x2a", b"".join(_field(b"\x0a", _value(each)) for each in value))
        case Mapping():
            return _field(b"\x32", b"".join(_field(b"\x0a", _pair(str(name), each)) for name, each in value.items()))
    return _text(b"\x0a", str(value))


@lru_cache(256)
def _named(name: str) -> bytes:
    return _some(b"\x2a", name)


def _some(tag: bytes, text: str | None) -> bytes:
    """A text that is left out where it is empty."""
    return _text(tag, text) if text else b""


def _text(tag: bytes, text: str) -> bytes:
    return _field(tag, text.encode("utf-8", "replace"))


def _field(tag: bytes, content: bytes) -> bytes:
    size = len(content)
    return tag + (_SIZE[size] if size < 2_048 else _varint(size)) + content


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    written.append(number)
    return bytes(written)
