"""Bodies of OTLP requests: of which type, unpacked, never larger than is served."""

from __future__ import annotations

import zlib

from fastapi import Request

from api.otlp.answers import JSON, PROTOBUF, media_type
from api.problems import ProblemError

MAX_TRACES = 20 << 20  # bytes, packed and unpacked; what OTLP recommends
LIMITS = {PROTOBUF: MAX_TRACES, JSON: 8 << 20}
MAX_MEMBERS = 64  # of a gzip body: clients send one, and each copies what comes after it
_GZIP = 16 + zlib.MAX_WBITS


def unpacked(request: Request) -> tuple[str, bytes]:
    """The type and the plain body. Raises ProblemError: 400, 413, 415."""
    kind = media_type(request.headers.get("content-type", ""))
    limit = LIMITS.get(kind)
    if limit is None:
        raise ProblemError(415, f"Content-Type must be {PROTOBUF} or {JSON}, not {ascii(kind)[1:61] or 'empty'}")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", ""):
        raise ProblemError(415, f"Content-Encoding must be gzip or none, not {ascii(encoding)[1:61]}")
    body: bytes = request.state.body
    if encoding == "gzip":
        body = _gunzip(body, limit)
    if len(body) > limit:
        raise _too_large(limit)
    return kind, body


def _gunzip(packed: bytes, limit: int) -> bytes:
    """One or more members, as gzip makes them; at most `limit` bytes are ever made of them."""
    plain = bytearray()
    for _ in range(MAX_MEMBERS):
        if not packed:
            return bytes(plain)
        member = zlib.decompressobj(_GZIP)
        try:
            plain += member.decompress(packed, limit + 1 - len(plain))
        except zlib.error as error:
            raise ProblemError(400, f"the body is not gzip: {error}") from None
        if len(plain) > limit:
            raise _too_large(limit)
        if not member.eof:
            raise ProblemError(400, "the body is not gzip: it ends too early")
        packed = member.unused_data
    if packed:
        raise ProblemError(400, f"the body is gzip of more than {MAX_MEMBERS} members: send one")
    return bytes(plain)


def _too_large(limit: int) -> ProblemError:
    return ProblemError(413, f"the body has more than {limit >> 20} MiB, unpacked: send smaller batches")
