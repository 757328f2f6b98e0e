"""The frame headers of one direction of HTTP/2 (RFC 9113 section 4.1); the content of the frames is not checked."""

from __future__ import annotations

from egress.errors import MalformedError
from egress.wire.http2 import PREFACE

HEADER = 9
_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS, _PUSH_PROMISE, _PING, _GOAWAY, _WINDOW, _CONTINUATION = range(10)
_OF_A_STREAM = frozenset((_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _PUSH_PROMISE, _CONTINUATION))
_OF_THE_CONNECTION = frozenset((_SETTINGS, _PING, _GOAWAY))
_SIZES = {_PRIORITY: 5, _RST_STREAM: 4, _PING: 8, _WINDOW: 4}
_ACK = 0x1


class Frames:
    """Checks the frame headers of one direction. Mutable; feed it the bytes in order. It keeps less than one header.

    `client`: True for the client's direction, which begins with the connection preface. `begun`: True once the first
    frame, which must be SETTINGS, was seen, or after `pick_up`.
    """

    __slots__ = ("_client", "_head", "_left", "_preface", "begun")

    def __init__(self, *, client: bool) -> None:
        self.begun = False
        self._client = client
        self._preface = PREFACE if client else b""
        self._head = b""
        self._left = 0  # bytes of the open frame still to come

    def pick_up(self) -> None:
        """Begin in mid-stream: the next byte is the first of a frame, and no preface or SETTINGS is required."""
        self.begun, self._preface = True, b""

    def feed(self, data: bytes) -> None:
        """Check the next bytes. Raises MalformedError for a wrong preface, or a header that no frame has there."""
        if self._preface:
            part = data[: len(self._preface)]
            if not self._preface.startswith(part):
                raise MalformedError("not the preface of HTTP/2")
            self._preface, data = self._preface[len(part) :], data[len(part) :]
        size, at = len(data), self._left
        while at < size:
            head = self._head + data[at : at + HEADER - len(self._head)]
            at += len(head) - len(self._head)
            if len(head) < HEADER:
                self._head, self._left = head, 0
                return
            self._head = b""
            self._check(head)
            at += int.from_bytes(head[:3])
        self._left = at - size

    def _check(self, head: bytes) -> None:
        """Check one whole frame header. Raises MalformedError."""
        size, kind, flags, stream = int.from_bytes(head[:3]), head[3], head[4], int.from_bytes(head[5:])
        if not self.begun and (kind != _SETTINGS or flags & _ACK):
            raise MalformedError("HTTP/2 does not begin with SETTINGS")
        self.begun = True
        if stream >> 31 or size != _SIZES.get(kind, size):
            raise MalformedError("not the header of an HTTP/2 frame")
        if (kind in _OF_A_STREAM and not stream) or (kind in _OF_THE_CONNECTION and stream):
            raise MalformedError("HTTP/2 frame on a wrong stream")
        if kind == _SETTINGS and (size % 6 or (flags & _ACK and size)):
            raise MalformedError("HTTP/2 SETTINGS of a wrong length")
        if kind == _PUSH_PROMISE and self._client:
            raise MalformedError("HTTP/2 PUSH_PROMISE from a client")
