"""QUIC clients that change the version: after Version Negotiation (RFC 9000), or on the way (RFC 9368)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.wire.quic import QuicHello
from egress.wire.quickeys import V1, V2
from tests.wire.test_quic import DCID, GOOD, HANDSHAKE, Client, crypto, hello, malformed, other


def negotiation(*versions: int, dcid: bytes = b"client", scid: bytes = DCID) -> bytes:
    """A server's Version Negotiation: it repeats the client's connection IDs, and lists its versions."""
    ids = bytes([len(dcid)]) + dcid + bytes([len(scid)]) + scid
    return b"\x8a" + bytes(4) + ids + b"".join(version.to_bytes(4) for version in versions)


@pytest.mark.parametrize("answer", [negotiation(V1), negotiation(0x1A2A3A4A, V1), negotiation(V1, dcid=b"")])
def test_after_version_negotiation_the_client_may_start_again_under_the_same_id(answer: bytes) -> None:
    reader = QuicHello()
    first, again = hello(b"a.example"), hello(b"b.example", b"\0\x33\0\2ab")
    assert reader.feed(Client(version=V2).seal(crypto(0, first)))
    reader.reply(answer)
    seen = reader.feed(Client(version=V1).seal(crypto(0, again), 0))
    assert seen and seen.server_name == "b.example" and not reader.failed


@pytest.mark.parametrize(
    "answer",
    [
        negotiation(V1, V2),  # the client must ignore one that lists its version
        negotiation(V1, scid=b"another"),
        negotiation(),
        negotiation(V1)[:-1],
        negotiation(V1)[:9],
        b"\x0a" + negotiation(V1)[1:],
        b"",
    ],
)
def test_what_is_no_version_negotiation_of_this_connection_ends_nothing(answer: bytes) -> None:
    reader = QuicHello()
    assert reader.feed(Client(version=V2).seal(crypto(0, hello(b"a.example"))))
    reader.reply(answer)
    malformed("differ", Client(version=V1).seal(crypto(0, hello(b"b.example"))), reader=reader)


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda data: b"\x80\0\0\0\0" + data))
def test_no_reply_raises(data: bytes) -> None:
    reader = QuicHello()
    assert reader.feed(Client().seal(GOOD))
    reader.reply(data)
    assert not reader.failed


def test_a_change_of_version_on_the_way() -> None:
    """RFC 9368 section 2.3: one connection, whose later Initials state the version that the server chose."""
    for sealed_with in (V2, V1):  # aioquic 1.7 seals them with the keys of its first version
        reader = QuicHello()
        seen = reader.feed(Client().seal(GOOD))
        assert seen and seen.server_name == "a.example"
        later = Client(version=V2)
        keys = Client(version=sealed_with)
        later.key, later.iv, later.hp = keys.key, keys.iv, keys.hp
        assert reader.feed(later.seal(b"\2\0\0\0\0", 1, b"server") + other(HANDSHAKE, V2, b"server")) is None
        assert not reader.failed
        changed = later.seal(crypto(0, hello(b"b.example")), 2, b"server")
        malformed("differ", changed, reader=reader)
