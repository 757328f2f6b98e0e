"""WebSocket frames (RFC 6455 section 5.2): checks their headers and unmasks the payload of data frames."""

from __future__ import annotations

from typing import NamedTuple

from egress.errors import MalformedError

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
MAX_CONTROL = 125  # bytes of the payload of a control frame
_KNOWN = frozenset((CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG))
_FIN, _RSV1, _RSV_OTHERS, _MASK = 0x80, 0x40, 0x30, 0x80
_LONG = {126: 2, 127: 8}  # bytes of the length that follow


class Piece(NamedTuple):
    """A part of the payload of one data frame, unmasked; a frame that arrives in several chunks gives several."""

    data: bytes
    begins: bool  # the first of its message
    ends: bool  # the last of its message
    compressed: bool  # of a message that permessage-deflate has compressed (RFC 7692)
    text: bool  # of a text message


class WebSocketStream:
    """Reads the frames of one direction. Mutable; feed it the bytes in order. It keeps less than one header.

    `client`: True for the client's direction, whose frames must be masked; a server's must not be (RFC 6455 section
    5.1). After a MalformedError it must not be fed again.
    """

    __slots__ = ("_begins", "_client", "_compressed", "_control", "_fin", "_head", "_left", "_mask", "_open", "_text")

    def __init__(self, *, client: bool) -> None:
        self._client = client
        self._head = bytearray()
        self._left = 0  # bytes of the open frame still to come
        self._mask = b""
        self._open = False  # a message has begun, and its last frame has not
        self._control = self._fin = self._begins = self._compressed = self._text = False

    def feed(self, chunk: bytes) -> list[Piece]:
        """Return the payload pieces of the data frames in `chunk`, in order. Control frames are only checked.

        Raises MalformedError for a header that no frame has at this place.
        """
        pieces: list[Piece] = []
        at = 0
        while at < len(chunk):
            if self._left:
                data = chunk[at : at + self._left]
                at += len(data)
                self._take(data, pieces)
                continue
            self._head.append(chunk[at])
            at += 1
            if self._is_whole():
                self._begin(pieces)
        return pieces

    def _is_whole(self) -> bool:
        """Check the header bytes so far; return True once the header is whole. Raises MalformedError."""
        head = self._head
        first = head[0]
        kind = first & 0x0F
        if kind not in _KNOWN or first & _RSV_OTHERS:
            raise MalformedError("not the header of a WebSocket frame")
        control = kind >= CLOSE
        if control and (not first & _FIN or first & _RSV1):
            raise MalformedError("WebSocket control frame in pieces")
        if not control and (kind == CONTINUATION) != self._open:
            raise MalformedError("WebSocket message is interrupted or continued out of place")
        if kind == CONTINUATION and first & _RSV1:
            raise MalformedError("WebSocket continuation claims a compression of its own")
        if len(head) == 1:
            return False
        size = head[1] & 0x7F
        if bool(head[1] & _MASK) != self._client or (control and size > MAX_CONTROL):
            raise MalformedError("WebSocket frame with a wrong mask or length")
        if size == 127 and len(head) > 2 and head[2] & 0x80:
            raise MalformedError("WebSocket frame is too long")
        return len(head) == 2 + _LONG.get(size, 0) + (4 if self._client else 0)

    def _begin(self, pieces: list[Piece]) -> None:
        """Take the fields of a whole header; for an empty frame, append its piece."""
        head = bytes(self._head)
        self._head.clear()
        size = head[1] & 0x7F
        end = 2 + _LONG.get(size, 0)
        self._left = int.from_bytes(head[2:end]) if end > 2 else size
        self._mask = head[end:]
        kind = head[0] & 0x0F
        self._control, self._fin = kind >= CLOSE, bool(head[0] & _FIN)
        if not self._control:
            if kind != CONTINUATION:
                self._begins, self._compressed, self._text = True, bool(head[0] & _RSV1), kind == TEXT
            self._open = not self._fin
        if not self._left:
            self._take(b"", pieces)

    def _take(self, data: bytes, pieces: list[Piece]) -> None:
        """Unmask payload bytes of the current frame; append them as a piece if it is a data frame."""
        self._left -= len(data)
        if self._mask and data:
            plain = _unmask(data, self._mask)
            turn = len(data) % 4
            self._mask = self._mask[turn:] + self._mask[:turn]
        else:
            plain = data
        if not self._control:
            pieces.append(Piece(plain, self._begins, self._fin and not self._left, self._compressed, self._text))
            self._begins = False


def _unmask(data: bytes, mask: bytes) -> bytes:
    size = len(data)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data) ^ int.from_bytes(key)).to_bytes(size)
