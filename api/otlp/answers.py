"""OTLP responses in the encoding of the request: ExportTraceServiceResponse, and google.rpc.Status for errors."""

from __future__ import annotations

import json

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Scope

from api.otlp import protobuf

PROTOBUF, JSON = protobuf.MEDIA_TYPE, "application/json"

PATH = "/v1/traces"
UNDER = "/api/v1/otlp"  # prefix of a second path, for proxies that forward only /api
PATHS = frozenset({PATH, UNDER + PATH})
_MESSAGE = 0x12  # google.rpc.Status: field 2, a string


def media_type(content_type: str) -> str:
    """Return the media type in a Content-Type header, in lower case and without parameters."""
    return content_type.partition(";")[0].strip().lower()


def accepted(kind: str, rejected: int, message: str) -> Response:
    """Make the response (200), in the media type `kind`, to a request of which `rejected` spans were rejected.

    All others were accepted. `message` has the reasons; it may be empty.
    """
    answer = ExportTraceServiceResponse()
    if rejected or message:
        answer.partial_success.rejected_spans = rejected
        answer.partial_success.error_message = message
    if kind == PROTOBUF:
        return Response(answer.SerializeToString(), media_type=PROTOBUF)
    partial = {"rejectedSpans": str(rejected), "errorMessage": message}
    return Response(json.dumps({"partialSuccess": partial} if rejected or message else {}), media_type=JSON)


def failed(scope: Scope, status: int, message: str, headers: dict[str, str]) -> Response:
    """Make an error response, in the encoding of the request; 503 takes the place of 409.

    OTLP clients retry after 429, 502, 503 and 504, and drop their spans otherwise.
    """
    status = 503 if status == 409 else status  # a write conflict, or a database migrated by a newer egress: retry
    if media_type(Headers(scope=scope).get("content-type", "")) == JSON:
        return Response(json.dumps({"message": message}), status, headers, JSON)
    text = message.encode("utf-8", "replace")[:1000].decode("utf-8", "ignore").encode()  # valid UTF-8 after the cut
    return Response(bytes([_MESSAGE]) + _varint(len(text)) + text, status, headers, PROTOBUF)


def _varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])
