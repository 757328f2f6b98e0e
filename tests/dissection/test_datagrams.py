"""Flows of datagrams: one datagram identifies the protocol, which then follows both directions."""

from __future__ import annotations

from egress.dissection.datagrams import Datagrams
from egress.dissection.dissector import Dissector
from egress.dissection.events import Event, StratumSpoken, Unread
from egress.dissection.layer import NESTING, Shared
from egress.dissection.protocol import Form, Identified, Place
from egress.model import ICMP, UDP, App, Direction
from egress.wire.packet import decode
from tests.dissection.boxes import BOXES
from tests.traffic import AGENT4, SERVER4, echo, udp

OUT, IN = Direction.OUT, Direction.IN
SUBSCRIBE = b'{"id":1,"method":"mining.subscribe","params":["cgminer/4.11"]}\n'


def flow(*datagrams: tuple[Direction, bytes]) -> list[Event]:
    dissector = Dissector(registry=BOXES)
    return [
        event
        for direction, data in datagrams
        for event in dissector.datagram(decode(udp(AGENT4, SERVER4, 7, 9, data)), direction)
    ]


def test_a_later_datagram_may_identify_the_protocol() -> None:
    stream = [(OUT, b"\xbc" + SUBSCRIBE[:30]), (OUT, b"\xbc" + SUBSCRIBE[30:])]
    assert [type(event) for event in flow((OUT, b"unknown"), (IN, b"unknown"), *stream)] == [StratumSpoken]


def test_each_direction_of_a_stream_inside_is_a_stream_of_its_own() -> None:
    mixed = [(OUT, b"\xbc" + SUBSCRIBE[:30]), (IN, b"\xbc" + SUBSCRIBE[30:]), (OUT, b"\xbc" + SUBSCRIBE[30:])]
    assert [event.direction for event in flow(*mixed) if isinstance(event, StratumSpoken)] == [OUT]


def test_datagrams_inside_datagrams_are_followed_to_the_bound() -> None:
    for depth in range(NESTING + 2):
        found = flow((OUT, b"\xbb" * depth + b"\xbc" + SUBSCRIBE))
        expected = [StratumSpoken] if depth < NESTING else [Unread, StratumSpoken] if depth == NESTING else [Unread]
        assert [type(event) for event in found] == expected


def test_the_payload_of_any_protocol_but_tcp_is_a_datagram() -> None:
    dissector = Dissector(registry=BOXES)
    found = list(dissector.datagram(decode(echo(AGENT4, SERVER4, 7, b"\xbc" + SUBSCRIBE)), OUT))
    assert [type(event) for event in found] == [StratumSpoken]


def test_what_cannot_be_the_protocol_is_not_asked_again() -> None:
    layer = Datagrams(Place(Form.DATAGRAM, OUT, ICMP), Shared(BOXES, lambda place, shared, _: Datagrams(place, shared)))
    assert layer.feed(bytes([0xC0, 0, 0, 0, 1]) + bytes(1300), OUT) == []
    assert App.QUIC not in {protocol.app for protocol in layer._candidates}
    layer = Datagrams(Place(Form.DATAGRAM, OUT, UDP), Shared(BOXES, lambda place, shared, _: Datagrams(place, shared)))
    assert layer.feed(bytes([0xC0, 0, 0, 0, 1]) + bytes(1300), OUT)[0] == Identified(App.QUIC)
