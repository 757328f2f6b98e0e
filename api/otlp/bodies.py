"""Checks the media type of OTLP request bodies, and decompresses them to a bounded size."""

from __future__ import annotations

import zlib

from fastapi import Request

from api.otlp.answers import JSON, PROTOBUF, media_type
from api.problems import ProblemError

MAX_TRACES = 20 << 20  # bytes, before and after decompression; OTLP's recommendation
LIMITS = {PROTOBUF: MAX_TRACES, JSON: 8 << 20}
MAX_MEMBERS = 64  # of a gzip body; clients send one, and decompressing each copies the rest of the body
_GZIP = 16 + zlib.MAX_WBITS


def unpacked(request: Request) -> tuple[str, bytes]:
    """Return the media type and the decompressed body, which LIMITS bounds. Raises ProblemError: 400, 413, 415."""
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
    """Decompress the members of a gzip body, to at most `limit` bytes. Raises ProblemError (400; 413 for more)."""
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
            raise ProblemError(400, "the body is truncated gzip")
        packed = member.unused_data
    if packed:
        raise ProblemError(400, f"the body has more than {MAX_MEMBERS} gzip members: send one")
    return bytes(plain)


def _too_large(limit: int) -> ProblemError:
    return ProblemError(413, f"the body has more than {limit >> 20} MiB after decompression: send smaller batches")
