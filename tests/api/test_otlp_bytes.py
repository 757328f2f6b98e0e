"""OTLP's decoders against any bytes: spans or MalformedSpanError, in bounded time and memory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message

from api.otlp import jsontraces, protobuf
from api.otlp.spans import MalformedSpanError, Span
from tests.api.test_otlp import TOOL, binary, request, span
from tests.examples import examples


def read(reader: Callable[[bytes], Iterator[Span]], body: bytes) -> list[Span] | None:
    try:
        return list(reader(body))
    except MalformedSpanError as error:
        assert str(error).isprintable()
        return None


@settings(max_examples=examples(300), deadline=None)
@given(body=st.binary(max_size=300))
def test_any_bytes_are_spans_or_malformed(body: bytes) -> None:
    for reader in (protobuf.read, jsontraces.read):
        read(reader, body)


@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damaged_requests_are_spans_or_malformed(data: st.DataObject) -> None:
    body = bytearray(binary(span(), span(spanId="01" * 8)))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    read(protobuf.read, bytes(body[: data.draw(st.integers(0, len(body)))]))


WORDS = (
    "resourceSpans", "scopeSpans", "spans", "attributes", "key", "value", "stringValue", "arrayValue", "kvlistValue",
    "values", "name", "traceId", "endTimeUnixNano", "gen_ai.tool.name",
)  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=30,
)


@pytest.mark.slow
@settings(max_examples=examples(300), deadline=None)
@given(document=values)
def test_any_json_is_spans_or_malformed(document: object) -> None:
    read(jsontraces.read, json.dumps(document).encode())


@settings(max_examples=examples(100), deadline=None)
@given(value=values)
def test_any_value_of_an_attribute_is_text(value: object) -> None:
    body = json.dumps(
        request(span({**TOOL, "gen_ai.tool.call.arguments": {"kvlistValue": value, "arrayValue": value}}))
    )
    found = read(jsontraces.read, body.encode())
    assert found is not None and all(isinstance(text, str) for text in found[0].attributes.values())


@settings(max_examples=examples(100), deadline=None)
@given(
    spans=st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=20), st.integers(0, (1 << 64) - 1)), max_size=5),
    scopes=st.integers(0, 3),
)
def test_the_walk_finds_what_the_generated_classes_find(spans: list[tuple[str, bytes, int]], scopes: int) -> None:
    made = ExportTraceServiceRequest()
    for _ in range(scopes):
        for name, span_id, when in spans:
            scope = made.resource_spans.add(schema_url="x").scope_spans.add(schema_url="y")
            scope.spans.add(name=name, span_id=span_id, start_time_unix_nano=when, flags=7)
    found = list(protobuf.read(made.SerializeToString()))
    assert [(each.name, each.span_id, each.start) for each in found] == [
        (name, span_id.hex(), when) for name, span_id, when in spans
    ] * scopes


@pytest.mark.slow
def test_ten_million_empty_spans_end_soon() -> None:
    """20 MiB of empty spans would take gigabytes as objects."""
    empty = b"\x12\x00" * (10 << 20)
    length = bytearray()
    number = len(empty)
    while number >= 0x80:
        length.append(number & 0x7F | 0x80)
        number >>= 7
    length.append(number)
    scope = b"\x12" + bytes(length) + empty
    body = b"\x0a" + bytes([*(len(scope) >> shift & 0x7F | 0x80 for shift in (0, 7, 14)), len(scope) >> 21]) + scope
    began = time.process_time()
    with pytest.raises(MalformedSpanError, match="at most"):
        for _ in protobuf.read(body):
            pass
    assert time.process_time() - began < 10


@pytest.mark.slow
def test_millions_of_empty_spans_of_json_end_soon() -> None:
    spans = b",".join([b"{}"] * (2 * protobuf.MAX_FIELDS))
    found = jsontraces.read(b'{"resourceSpans": [{"scopeSpans": [{"spans": [' + spans + b"]}]}]}")
    with pytest.raises(MalformedSpanError, match="at most"):
        for _ in range(protobuf.MAX_FIELDS + 1):
            next(found)


def test_one_span_that_is_broken_or_huge_spoils_no_other() -> None:
    made = ExportTraceServiceRequest.FromString(binary(span()))
    made.resource_spans[0].scope_spans[0].spans.append(Message(name="x" * (2 << 20)))
    good, huge = protobuf.read(made.SerializeToString())
    assert not good.broken and "1 MiB" in huge.broken
    deep = Message(name="x")
    value = deep.attributes.add(key="gen_ai.tool.call.arguments").value
    for _ in range(60):
        value = value.array_value.values.add()
    made.resource_spans[0].scope_spans[0].spans[1].CopyFrom(deep)
    assert [each.broken for each in protobuf.read(made.SerializeToString())] == ["", "it cannot be read"]
