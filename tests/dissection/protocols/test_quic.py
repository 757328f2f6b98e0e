"""QUIC in dissection: the datagrams that identify it, and the facts from a hello."""

from __future__ import annotations

from egress.dissection.events import Named, TlsOpened
from egress.dissection.protocol import Form, Identified, Place
from egress.dissection.protocols.quic import Quic
from egress.model import ICMP, UDP, App, Direction
from egress.wire.quickeys import V1, V2
from tests.wire.test_quic import Client, crypto, hello
from tests.wire.test_quic_versions import negotiation

OUT, IN = Direction.OUT, Direction.IN
INITIAL = Client().seal(crypto(0, hello(b"www.example.org")).ljust(1162, b"\0"))


def place(direction: Direction = OUT, proto: int = UDP) -> Place:
    return Place(Form.DATAGRAM, direction, proto)


def test_an_initial_of_the_client_identifies_quic() -> None:
    assert Quic.identify(INITIAL, place()) is True
    assert Quic.identify(INITIAL, place(IN)) is None
    assert Quic.identify(INITIAL[:1199], place()) is None
    assert Quic.identify(INITIAL, place(proto=ICMP)) is False


def test_a_hello_states_the_server() -> None:
    quic = Quic()
    assert quic.datagram(IN, INITIAL) == []
    identified, opened, named = quic.datagram(OUT, INITIAL)
    assert identified == Identified(App.QUIC, "www.example.org")
    assert isinstance(opened, TlsOpened)
    assert named == Named("www.example.org", hidden=False)
    assert quic.datagram(OUT, b"\x40" + bytes(1300)) == []  # a packet of the connection that was opened


def test_version_negotiation_lets_the_client_start_again() -> None:
    quic = Quic()
    first, again = (
        Client(version=version).seal(crypto(0, hello(name)).ljust(1162, b"\0"))
        for version, name in ((V2, b"www.example.org"), (V1, b"other.example.org"))
    )
    assert Named("www.example.org", hidden=False) in quic.datagram(OUT, first)
    assert quic.datagram(IN, negotiation(V1)) == []
    assert Named("other.example.org", hidden=False) in quic.datagram(OUT, again)


def test_what_cannot_be_read_hides_the_name_once() -> None:
    quic = Quic()
    broken = b"\xc0\0\0\0\1" + bytes(1300)
    assert quic.datagram(OUT, broken) == [Named("", hidden=True)]
    assert quic.datagram(OUT, broken) == quic.datagram(OUT, INITIAL) == []


def test_an_initial_of_a_version_that_servers_speak_reopens_a_flow() -> None:
    assert Quic.reopens(INITIAL)
    assert not Quic.reopens(b"\xc0\0\0\0\5" + bytes(1300)) and not Quic.reopens(b"")
