"""HTTP/2 requests in the clear (RFC 9113): the authority that each stream of a connection asks for.

Only the client's direction is read, from the end of its preface. Header blocks change the state of the compression
(HPACK, RFC 7541), so each one is decoded, trailers too (`egress.wire.hpackblock`); all other frames are skipped and
never kept.

A server may take its name from `:authority` or from `host`. If the two disagree, or one is repeated, MalformedError is
raised; nothing is guessed. After it the direction cannot be read any more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from egress.errors import MalformedError
from egress.wire.hpackblock import Field, FieldReader
from egress.wire.http import host_of

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113 section 3.4
MAX_BLOCK = 65536  # bytes of a header block, compressed; as MAX_HEAD of HTTP/1
MAX_LIST = 65536  # bytes of a header list as RFC 9113 section 6.5.2 counts them: 32 more per field
MAX_TABLE = 65536  # bytes of the dynamic table; 4096 by default, browsers and proxies allow up to 64 KiB
_HEADERS, _SETTINGS, _PUSH_PROMISE, _CONTINUATION = 0x1, 0x4, 0x5, 0x9
_END_HEADERS, _PADDED, _PRIORITY = 0x04, 0x08, 0x20
_FRAME_HEADER = 9
_RESIZED = re.compile(
    rb"(?:[\x20-\x3e]|\x3f[\x80-\xff]*[\x00-\x7f]){3}", re.DOTALL
)  # RFC 7541 section 4.2: twice at most
_PSEUDO = frozenset({b":method", b":scheme", b":authority", b":path", b":protocol"})  # the last: RFC 8441


class H2Request(NamedTuple):
    """A request, read from its header list."""

    stream: int
    method: str
    authority: str  # lower case, without port, brackets or trailing dot; of :authority, else of host, else ""
    path: str  # as sent, Latin-1; "" for CONNECT


def starts_http2(data: bytes) -> bool | None:
    """Return whether a client starts HTTP/2 with prior knowledge; None: too short to tell."""
    if len(data) < len(PREFACE):
        return None if PREFACE.startswith(data) else False
    return data.startswith(PREFACE)


class H2RequestStream:
    """Reads the requests of one connection: feed it the bytes after the client's preface, in order."""

    __slots__ = ("_begun", "_block", "_ended", "_fields", "_kept", "_last", "_open", "_skip")

    def __init__(self) -> None:
        self._fields = FieldReader(MAX_LIST, MAX_TABLE)  # the server's SETTINGS allow less, and the server enforces it
        self._kept = bytearray()  # less than a frame
        self._skip = 0  # bytes left of a frame that is skipped
        self._block = bytearray()  # header block so far
        self._open = 0  # stream whose header block has not ended, 0: none
        self._last = 0  # the highest stream that was opened
        self._begun = False  # the first frame, which must be SETTINGS, has been seen
        self._ended = False  # MalformedError was raised before

    def feed(self, chunk: bytes) -> list[H2Request]:
        """Return the requests whose header block `chunk` completes, oldest first.

        Raises MalformedError, and does so again at each later call.
        """
        if self._ended:
            raise MalformedError("HTTP/2 was malformed before")
        requests: list[H2Request] = []
        self._ended = True  # cleared at the end: stays set if anything below raises
        self._kept += chunk
        at = 0
        while True:
            step = min(self._skip, len(self._kept) - at)
            at, self._skip = at + step, self._skip - step
            if self._skip or len(self._kept) - at < _FRAME_HEADER:
                break
            size = self._frame(bytes(self._kept[at : at + _FRAME_HEADER]))
            if len(self._kept) - at < size:
                break
            if size:
                requests += self._headers(bytes(self._kept[at : at + size]))
                at += size
        del self._kept[:at]
        self._ended = False
        return requests

    def _frame(self, header: bytes) -> int:
        """Return the size of a frame that must be read, with its header; 0 for one that is skipped.

        Raises MalformedError.
        """
        size, kind, stream = int.from_bytes(header[:3]), header[3], int.from_bytes(header[5:9]) & 0x7FFFFFFF
        if not self._begun and (kind != _SETTINGS or stream or header[4] & 1):
            raise MalformedError("HTTP/2 does not begin with SETTINGS")
        self._begun = True
        if (kind == _CONTINUATION) != bool(self._open) or (self._open and stream != self._open):
            raise MalformedError("HTTP/2 header block is interrupted or continued out of place")
        if kind == _PUSH_PROMISE:
            raise MalformedError("HTTP/2 PUSH_PROMISE from a client")
        if kind not in (_HEADERS, _CONTINUATION):
            self._skip = _FRAME_HEADER + size
            return 0
        if kind == _HEADERS and not stream & 1:
            raise MalformedError("HTTP/2 request on a stream of the server")
        if len(self._block) + size > MAX_BLOCK:
            raise MalformedError("HTTP/2 header block is too long")
        return _FRAME_HEADER + size

    def _headers(self, frame: bytes) -> Sequence[H2Request]:
        """Read a whole HEADERS or CONTINUATION frame (RFC 9113 sections 6.2, 6.10)."""
        kind, flags, stream = frame[3], frame[4], int.from_bytes(frame[5:9]) & 0x7FFFFFFF
        fragment = frame[_FRAME_HEADER:]
        if kind == _HEADERS:
            fragment = _unpadded(fragment, flags)
            self._open = stream
        self._block += fragment
        if not flags & _END_HEADERS:
            return ()
        block = bytes(self._block)
        self._block.clear()
        self._open = 0
        return self._read(stream, self._decode(block))

    def _decode(self, block: bytes) -> list[Field]:
        if _RESIZED.match(block):  # else a block could resize the table once per byte
            raise MalformedError("HTTP/2 header block resizes the table more than twice")
        return self._fields.read(block)

    def _read(self, stream: int, fields: list[Field]) -> Sequence[H2Request]:
        """Return the request in the fields of a new stream; nothing for trailers. Raises MalformedError."""
        if stream <= self._last:
            if any(name.startswith(b":") for name, _ in fields):
                raise MalformedError("HTTP/2 request on a stream that was used before")
            return ()  # trailers
        self._last = stream
        return (_request(stream, fields),)


def _unpadded(payload: bytes, flags: int) -> bytes:
    """Return the payload of a HEADERS frame without its padding and priority (RFC 9113 section 6.2).

    Raises MalformedError.
    """
    pad = 0
    if flags & _PADDED:
        if not payload:
            raise MalformedError("HTTP/2 padding is cut off")
        pad, payload = payload[0], payload[1:]
    if flags & _PRIORITY:
        if len(payload) < 5:
            raise MalformedError("HTTP/2 priority is cut off")
        payload = payload[5:]
    if pad > len(payload):
        raise MalformedError("HTTP/2 padding is longer than its frame")
    return payload[: len(payload) - pad]


def _request(stream: int, fields: list[Field]) -> H2Request:
    """Read a request: pseudo fields first, each once; `host` may only repeat `:authority` (RFC 9113 section 8.3.1).

    Raises MalformedError.
    """
    pseudo: dict[bytes, bytes] = {}
    hosts: list[bytes] = []
    regular = False
    for name, value in fields:
        if name.startswith(b":"):
            if regular or name in pseudo or name not in _PSEUDO:
                raise MalformedError("HTTP/2 pseudo field unknown, repeated or out of place")
            pseudo[name] = value
            continue
        regular = True
        if name != name.lower():
            raise MalformedError("HTTP/2 field name in upper case")
        if name == b"host":
            hosts.append(value)
    method, authority = pseudo.get(b":method", b""), pseudo.get(b":authority")
    if not method or (method == b"CONNECT" and not authority):
        raise MalformedError("HTTP/2 request without a method, or CONNECT without a target")
    if len(hosts) > 1:
        raise MalformedError("two HTTP Host fields")
    named = {host_of(value) for value in (authority, *hosts) if value is not None}
    if len(named) > 1:
        raise MalformedError("HTTP/2 host and :authority disagree")
    path = pseudo.get(b":path", b"")
    return H2Request(stream, method.decode("latin-1"), "".join(named), path.decode("latin-1"))
