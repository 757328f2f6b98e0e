"""WebSocket frames: unmasked in any segmentation, in pieces, compressed; headers that none has; any bytes."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.errors import MalformedError
from egress.wire.websocket import BINARY, CLOSE, CONTINUATION, PING, TEXT, Piece, WebSocketStream
from tests.dissection.conversations import MASK, frame_of


def read(data: bytes, size: int = 1 << 20, *, client: bool = True) -> list[tuple[bytes, bool]]:
    """Return the messages and whether each was compressed."""
    stream, messages = WebSocketStream(client=client), list[tuple[bytes, bool]]()
    for at in range(0, len(data), size):
        for piece in stream.feed(data[at : at + size]):
            before = b"" if piece.begins else messages.pop()[0]
            messages.append((before + piece.data, piece.compressed))
    return messages


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 1 << 20])
def test_messages_in_any_segmentation(size: int) -> None:
    text, long = b"hello", bytes(range(256)) * 300
    data = frame_of(TEXT, text, mask=MASK) + frame_of(BINARY, long[:300], mask=MASK, fin=False, compressed=True)
    data += frame_of(PING, b"between", mask=MASK) + frame_of(CONTINUATION, long[300:], mask=MASK)
    data += frame_of(TEXT, b"", mask=MASK) + frame_of(CLOSE, b"", mask=MASK)
    assert read(data, size) == [(text, False), (long, True), (b"", False)]


def test_a_server_does_not_mask() -> None:
    assert read(frame_of(TEXT, b"hi"), client=False) == [(b"hi", False)]
    assert WebSocketStream(client=False).feed(frame_of(TEXT, b"hi")) == [Piece(b"hi", True, True, False, True)]
    with pytest.raises(MalformedError, match="mask"):
        read(frame_of(TEXT, b"hi"))


@pytest.mark.parametrize(
    "data",
    [
        b"\x83", b"\x91", b"\xc9", b"\x08", b"\x80", b"\xc0",  # opcodes, reserved bits, control frames, continuations
        frame_of(PING, bytes(126), mask=MASK),
        frame_of(TEXT, b"a", mask=MASK, fin=False) + frame_of(TEXT, b"b", mask=MASK),
        b"\x82\xff\x80",
    ],
)  # fmt: skip
def test_headers_that_no_frame_has(data: bytes) -> None:
    for size in (1, len(data)):
        with pytest.raises(MalformedError):
            read(data, size)


@given(st.binary(max_size=300), st.booleans(), st.integers(1, 40))
def test_any_bytes_at_all(data: bytes, client: bool, size: int) -> None:
    with suppress(MalformedError):
        read(data, size, client=client)
