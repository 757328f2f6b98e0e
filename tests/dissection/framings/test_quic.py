"""QUIC: a flow begins with a hello that can be read, and headers are of versions 1 and 2."""

from __future__ import annotations

from egress.model import UDP, App
from tests.dissection.framed import IN, OUT, holds
from tests.wire.test_quic import Client, crypto, hello


def test_a_quic_flow_begins_with_a_hello_that_can_be_read() -> None:
    first = Client().seal(crypto(0, hello(b"a.example")).ljust(1162, b"\0"))
    assert holds(App.QUIC, [(OUT, first), (OUT, b"\x41" + bytes(30))], UDP)
    assert not holds(App.QUIC, [(OUT, b"\x41" + bytes(30))], UDP)
    assert not holds(App.QUIC, [(OUT, first[:-1] + b"x")], UDP)
    assert not holds(App.QUIC, [(OUT, first), (OUT, b"\x41" + bytes(9))], UDP)
    assert not holds(App.QUIC, [(OUT, first), (IN, b"\xc0\xff\x00\x00\x1d\x00\x00" + bytes(30))], UDP)
    assert not holds(App.QUIC, [(OUT, first), (IN, b"\x80" + bytes(4) + b"\0\0abc")], UDP)
