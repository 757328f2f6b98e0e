"""Packets that a protocol carries are dissected like the agent's own, in any order, to a bounded number of flows."""

from __future__ import annotations

from itertools import permutations

import pytest

from egress.dissection.dissector import Dissector
from egress.dissection.events import DnsAsked, Event, StratumSpoken, TlsOpened, Unread
from egress.dissection.packets import CAPACITY, MAX_FLOWS, Packets
from egress.model import ACK, PSH, SYN, Direction
from tests.dissection.boxes import BOXES, box
from tests.engine.resolver import question
from tests.traffic import AGENT4, AGENT6, SERVER4, SERVER6, Step, Talk, client_hello, tcp, udp

OUT, IN = Direction.OUT, Direction.IN
SUBSCRIBE = b'{"id":1,"method":"mining.subscribe","params":["cgminer/4.11"]}\n'


class Tunnel:
    """Carries packets both ways, each in a box."""

    def __init__(self) -> None:
        self.dissector = Dissector(registry=BOXES)
        self.begun: set[Direction] = set()

    def send(self, raw: bytes, direction: Direction = OUT) -> list[Event]:
        first = direction not in self.begun
        self.begun.add(direction)
        return list(self.dissector.feed(direction, box(raw, b"p", first=first)))

    def play(self, steps: list[Step]) -> list[Event]:
        return [event for step in steps for event in self.send(step.raw, step.direction)]


@pytest.mark.parametrize("six", [False, True])
def test_a_connection_inside_gives_the_events_of_one_outside(six: bool) -> None:
    ends = (AGENT6, SERVER6) if six else (AGENT4, SERVER4)
    begin = tcp(*ends, 40000, 3333, SYN, 99, 0)
    segments = [tcp(*ends, 40000, 3333, PSH | ACK, 100 + at, 1, SUBSCRIBE[at : at + 30]) for at in range(0, 90, 30)]
    for order in permutations(segments):
        tunnel = Tunnel()
        found = [event for raw in (begin, *order) for event in tunnel.send(raw)]
        assert [type(event) for event in found] == [StratumSpoken]
        assert tunnel.dissector.app == "stratum"


def test_both_directions_and_the_handshake_are_followed() -> None:
    talk = Talk().open().client(client_hello("www.example.org"), segment=100).server(b"\x15\x03\x01\0\2\2\x28")
    talk.client(b"\n" + SUBSCRIBE)
    kinds = [type(event) for event in Tunnel().play(talk.steps)]
    assert [kind for kind in kinds if kind in (TlsOpened, StratumSpoken)] == [TlsOpened, StratumSpoken]


def test_datagrams_inside_are_read_at_their_port() -> None:
    (event,) = Tunnel().send(udp(AGENT4, SERVER4, 999, 53, question("www.example.test")))
    assert isinstance(event, DnsAsked) and event.query is not None and event.query.name == "www.example.test"
    assert Tunnel().send(udp(AGENT4, SERVER4, 999, 54, question("www.example.test"))) == []


def test_what_is_not_a_packet_is_left_out() -> None:
    tunnel = Tunnel()
    assert tunnel.send(b"") == tunnel.send(b"\x45garbage") == []
    assert [type(event) for event in tunnel.send(tcp(AGENT4, SERVER4, 1, 2, ACK, 5, 5, SUBSCRIBE))] == [StratumSpoken]


def test_a_lost_segment_is_skipped_once_it_was_acknowledged() -> None:
    tunnel = Tunnel()
    tunnel.send(tcp(AGENT4, SERVER4, 1, 2, SYN, 99, 0))
    assert tunnel.send(tcp(AGENT4, SERVER4, 1, 2, ACK, 120, 1, SUBSCRIBE)) == []
    acknowledged = tcp(SERVER4, AGENT4, 2, 1, ACK, 1, 120 + len(SUBSCRIBE))
    assert [type(event) for event in tunnel.send(acknowledged, IN)] == [StratumSpoken]


def test_flows_and_their_bytes_are_bounded() -> None:
    tunnel = Tunnel()
    half = SUBSCRIBE[:30]
    for port in range(MAX_FLOWS + 1):
        tunnel.send(tcp(AGENT4, SERVER4, port, 2, ACK, 100, 1, half))
    late = [tunnel.send(tcp(AGENT4, SERVER4, port, 2, ACK, 130, 1, SUBSCRIBE[30:])) for port in (MAX_FLOWS, 0)]
    assert [list(map(type, events)) for events in late] == [[StratumSpoken], [Unread]]
    for at in range(100):
        tunnel.send(tcp(AGENT4, SERVER4, 7, 2, ACK, 1000 + at * 1000, 1, b"x" * 1000))
    layer = tunnel.dissector._exchange._both[0,]  # type: ignore[union-attr]
    assert isinstance(layer, Packets)
    assert max(len(stream.history) for flow in layer._flows.values() for stream in flow._streams) <= CAPACITY
