"""Reads binary OTLP. It walks the outer messages, so that memory is bounded by one span and not by the request.

A request of 20 MiB can hold ten million empty spans, which would take gigabytes as objects. Resources and spans are
parsed by OpenTelemetry's generated classes. A span that does not parse is rejected alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message

from api.otlp.spans import MAX_VALUE, WANTED, MalformedSpanError, Span

MAX_FIELDS = 200_000  # fields of the outer messages of a request, spans included
MAX_MESSAGE = 1 << 20  # bytes of a span or resource
MAX_DEPTH = 8  # of arrays and maps in an attribute

# Field numbers of ExportTraceServiceRequest, ResourceSpans and ScopeSpans.
_RESOURCE_SPANS, _RESOURCE, _SCOPE_SPANS, _SPANS = 1, 1, 2, 2
_VARINT, _LENGTH, _FIXED = 0, 2, {1: 8, 5: 4}  # wire types; the fixed ones with their sizes


def read(body: bytes) -> Iterator[Span]:
    """Raises MalformedSpanError, also after some were given."""
    walk = _Walk()
    for resource_spans in walk.parts(memoryview(body), _RESOURCE_SPANS):
        resource = _resource(b"".join(walk.parts(resource_spans, _RESOURCE)))
        for scope_spans in walk.parts(resource_spans, _SCOPE_SPANS):
            for span in walk.parts(scope_spans, _SPANS):
                yield _span(span, resource)


class _Walk:
    """Walks the messages of one request, over at most MAX_FIELDS fields."""

    def __init__(self) -> None:
        self._left = MAX_FIELDS

    def parts(self, view: memoryview, wanted: int) -> Iterator[memoryview]:
        """Yield the bytes of each field of this number that is a message; skip all others."""
        at = 0
        while at < len(view):
            self._left -= 1
            if self._left < 0:
                raise MalformedSpanError(f"a request may hold at most {MAX_FIELDS} fields around and with its spans")
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
    """Read a resource's attributes. Parts of one message may be sent separately; `raw` has them concatenated."""
    if len(raw) > MAX_MESSAGE:
        raise MalformedSpanError("a resource is larger than 1 MiB")
    try:
        return _attributes(Resource.FromString(raw).attributes)
    except DecodeError:
        raise MalformedSpanError("a resource cannot be read") from None


def _span(raw: memoryview, resource: dict[str, str]) -> Span:
    if len(raw) > MAX_MESSAGE:
        return Span("", "", "", 0, 0, {}, "it is larger than 1 MiB")
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
    plain = _plain(value, MAX_DEPTH)
    return (plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False))[:MAX_VALUE]


def _plain(value: AnyValue, depth: int) -> object:
    kind = value.WhichOneof("value")
    if kind is None:
        return ""
    if kind == "bytes_value":
        return value.bytes_value[:MAX_VALUE].hex()
    if kind in ("array_value", "kvlist_value") and not depth:
        return "…"
    if kind == "array_value":
        return [_plain(each, depth - 1) for each in value.array_value.values[:1000]]
    if kind == "kvlist_value":
        return {each.key: _plain(each.value, depth - 1) for each in value.kvlist_value.values[:1000]}
    return getattr(value, kind)
