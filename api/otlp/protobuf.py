"""Reads OTLP in binary protobuf: walks the outer messages, and parses one resource or span at a time.

A body of 20 MiB, which is in memory as a whole, can contain ten million empty spans: parsed together they would
take gigabytes of memory. OpenTelemetry's generated classes parse resources and spans. A span that does not parse is
yielded as a broken one, and the others are still read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message

from api.otlp.spans import MAX_VALUE, WANTED, MalformedSpanError, Span

MEDIA_TYPE = "application/x-protobuf"
MAX_FIELDS = 200_000  # fields of all outer messages of a request; each span is one
MAX_MESSAGE = 1 << 20  # bytes of a span or resource
MAX_DEPTH = 8  # levels of arrays and maps in an attribute
MAX_ELEMENTS = 1000  # of an array or map in an attribute; further ones are left out

# Field numbers of ExportTraceServiceRequest, ResourceSpans and ScopeSpans.
_RESOURCE_SPANS, _RESOURCE, _SCOPE_SPANS, _SPANS = 1, 1, 2, 2
_VARINT, _LENGTH, _FIXED = 0, 2, {1: 8, 5: 4}  # wire types; those of fixed size with their size in bytes
_TOO_LARGE = f"larger than {MAX_MESSAGE >> 20} MiB"


def read(body: bytes) -> Iterator[Span]:
    """Yield the spans of an ExportTraceServiceRequest.

    Raises MalformedSpanError, possibly after some spans were yielded.
    """
    walk = _Walk()
    for resource_spans in walk.parts(memoryview(body), _RESOURCE_SPANS):
        resource = _resource(b"".join(walk.parts(resource_spans, _RESOURCE)))
        for scope_spans in walk.parts(resource_spans, _SCOPE_SPANS):
            for span in walk.parts(scope_spans, _SPANS):
                yield _span(span, resource)


class _Walk:
    """Walks the outer messages of one request, over at most MAX_FIELDS fields in total."""

    def __init__(self) -> None:
        self._left = MAX_FIELDS

    def parts(self, view: memoryview, wanted: int) -> Iterator[memoryview]:
        """Yield the content of each length-delimited field numbered `wanted`; skip other fields.

        Raises MalformedSpanError.
        """
        at = 0
        while at < len(view):
            self._left -= 1
            if self._left < 0:
                raise MalformedSpanError(
                    f"a request may have at most {MAX_FIELDS} fields in its outer messages, spans included"
                )
            tag, at = _varint(view, at)
            number, kind = tag >> 3, tag & 7
            begin = at
            if kind == _LENGTH:
                length, begin = _varint(view, at)
                at = begin + length
            elif kind == _VARINT:
                _, at = _varint(view, at)
            elif kind in _FIXED:
                at += _FIXED[kind]
            else:
                raise MalformedSpanError("it holds a field of unknown wire type")
            if at > len(view) or not number:
                raise MalformedSpanError("it ends within a field" if number else "it holds a field without number")
            if number == wanted and kind == _LENGTH:
                yield view[begin:at]


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """Read a varint at offset `at`; return its value and the offset behind it. Raises MalformedSpanError."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(view):
            raise MalformedSpanError("it ends within a number")
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise MalformedSpanError("it holds a number of more than ten bytes")


def _resource(raw: bytes) -> dict[str, str]:
    """Read a resource's WANTED attributes. A sender may split the message into several fields; `raw` joins them.

    Raises MalformedSpanError.
    """
    if len(raw) > MAX_MESSAGE:
        raise MalformedSpanError(f"a resource is {_TOO_LARGE}")
    try:
        return _attributes(Resource.FromString(raw).attributes)
    except DecodeError:
        raise MalformedSpanError("a resource cannot be read") from None


def _span(raw: memoryview, resource: dict[str, str]) -> Span:
    """Parse one span; return a broken one, with the reason, if it is too large or cannot be read."""
    if len(raw) > MAX_MESSAGE:
        return Span("", "", "", 0, 0, {}, f"it is {_TOO_LARGE}")
    try:
        message = Message.FromString(bytes(raw))
    except DecodeError:
        return Span("", "", "", 0, 0, {}, "it cannot be read")
    return Span(
        message.name[:MAX_VALUE], message.trace_id.hex()[:64], message.span_id.hex()[:64],
        message.start_time_unix_nano, message.end_time_unix_nano, resource | _attributes(message.attributes),
    )  # fmt: skip


def _attributes(listed: Iterable[KeyValue]) -> dict[str, str]:
    return {each.key: _text(each.value) for each in listed if each.key in WANTED}


def _text(value: AnyValue) -> str:
    """Format an AnyValue as at most MAX_VALUE characters: a string as it is, any other value as JSON."""
    plain = _plain(value, MAX_DEPTH)
    return (plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False))[:MAX_VALUE]


def _plain(value: AnyValue, depth: int) -> object:
    """Convert an AnyValue to JSON types: bytes to hex, no value to empty text, containers below `depth` to `…`."""
    kind = value.WhichOneof("value")
    if kind is None:
        return ""
    if kind == "bytes_value":
        return value.bytes_value[:MAX_VALUE].hex()
    if kind in ("array_value", "kvlist_value") and not depth:
        return "…"
    if kind == "array_value":
        return [_plain(each, depth - 1) for each in value.array_value.values[:MAX_ELEMENTS]]
    if kind == "kvlist_value":
        return {each.key: _plain(each.value, depth - 1) for each in value.kvlist_value.values[:MAX_ELEMENTS]}
    return getattr(value, kind)
