"""SOCKS in dissection: another stream begins after the handshake."""

from __future__ import annotations

import pytest

from egress.dissection.protocol import Form, Place, Rest
from egress.dissection.protocols.socks import Socks
from egress.model import TCP, Direction

PLACE = Place(Form.STREAM, Direction.OUT, TCP)


@pytest.mark.parametrize(
    "handshake",
    [
        b"\x05\x01\x00\x05\x01\x00\x03\x08pool.com\x0d\x05",
        b"\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00",
        b"\x04\x01\x0d\x05\x00\x00\x00\x01user\x00pool.com\x00",
    ],
)
def test_what_follows_the_handshake_is_a_stream_of_its_own(handshake: bytes) -> None:
    assert all(not Socks.identify(handshake[:size], PLACE) for size in range(len(handshake)))
    data = handshake + b"inner"
    assert Socks.identify(data, PLACE) is True
    assert Socks().follow(data, PLACE).feed(data) == [Rest(b"inner")]


def test_other_beginnings_are_not_socks() -> None:
    assert Socks.identify(b"GET / HTTP/1.1\r\n", PLACE) is False
    assert Socks.identify(b"\x05", PLACE) is None
