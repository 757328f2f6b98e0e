"""Both directions of one flow, and the protocols that are expected at its port beside all others."""

from __future__ import annotations

from egress.dissection.events import DnsAsked, SshSpoken
from egress.dissection.exchange import Exchange
from egress.dissection.layer import Shared
from egress.dissection.protocol import Form, Identified, Place
from egress.dissection.registry import REGISTRY
from egress.dissection.side import Side
from egress.model import ICMP, TCP, UDP, App, Direction
from tests.engine.resolver import framed, question
from tests.traffic import client_hello
from tests.wire.test_quic import Client, crypto, hello

OUT, IN = Direction.OUT, Direction.IN


def exchange(proto: int = TCP, port: int = 443) -> Exchange:
    return Exchange(Place(Form.STREAM, OUT, proto), port, Shared(REGISTRY, Side))


def test_at_its_port_dns_is_read_beside_all_others() -> None:
    flow = exchange(port=53)
    found = flow.segment(OUT, framed(question("www.example.test")))
    assert found[0] == Identified(App.DNS, "www.example.test")
    assert isinstance(found[1], DnsAsked)
    other = exchange(port=53)
    kinds = [type(fact) for fact in other.segment(OUT, b"SSH-2.0-Go\r\n") + other.segment(OUT, b"\0" * 30000)]
    assert SshSpoken in kinds and DnsAsked in kinds
    assert flow.asked and not other.asked


def test_no_other_protocol_is_looked_for_in_datagrams_at_the_port() -> None:
    initial = Client().seal(crypto(0, hello(b"www.example.org")).ljust(1162, b"\0"))
    assert exchange(UDP).datagram(OUT, initial)[0] == Identified(App.QUIC)
    assert exchange(UDP, 53).datagram(OUT, initial) == [DnsAsked(OUT, None, initial)]
    assert exchange(ICMP, 53).datagram(OUT, question("www.example.test")) == []


def test_a_connection_is_opaque_once_both_directions_are() -> None:
    flow = exchange()
    assert not flow.opaque
    flow.segment(OUT, client_hello("www.example.org"))
    assert not flow.opaque
    flow.segment(IN, b"\x16\x03\x03\x00\x04\x02\x00\x00\x00")
    assert flow.opaque
