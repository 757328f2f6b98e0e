"""Segments to events: the moment at which a connection counts as opened, and segments that may not pass."""

from __future__ import annotations

import gc

import pytest

from egress.dissection.events import Burst, Event, Inconsistent, Opened, SshSpoken
from egress.dissection.stream import SegmentOverflowError
from egress.engine.flow import Flow
from egress.engine.reassembly import events
from egress.limits import Limits
from egress.model import Action, Direction, Mode, Reason, Verdict
from egress.wire.packet import decode
from tests.traffic import START, Talk, agent, client_hello, engine, udp

OUT = Direction.OUT


def feed(talk: Talk, mode: Mode = Mode.ENFORCE) -> list[Event]:
    first = decode(talk.steps[0].raw)
    key = (first.proto, first.src, talk.sport, first.dst, talk.dport)
    flow = Flow(agent(mode=mode), key, first, START, talk.steps[0].direction)
    flow.decide(Verdict(Action.ACCEPT, Reason.DEFAULT))
    out: list[Event] = []
    for number, step in enumerate(talk.steps):
        packet = decode(step.raw)
        out += events(flow, packet, START + number, step.direction, Limits().stream_buffer, burst=False)
    return out


def test_a_connection_opens_when_it_is_answered() -> None:
    assert feed(Talk().open()) == [Opened(START, START + 1)]


def test_an_unanswered_or_refused_connection_never_opens() -> None:
    talk = Talk()
    talk._out(2)
    assert feed(talk) == []
    talk.seq += 1
    talk._in(0x14)  # RST, ACK
    assert feed(talk) == []


def datagrams(*directions: Direction) -> list[Event]:
    first = decode(udp("10.77.0.2", "203.0.113.9", 5, 7, b"x"))
    back = decode(udp("203.0.113.9", "10.77.0.2", 7, 5, b"y"))
    flow = Flow(agent(), (first.proto, first.src, 5, first.dst, 7), first, START, OUT)
    flow.decide(Verdict(Action.ACCEPT, Reason.DEFAULT))
    out: list[Event] = []
    for number, direction in enumerate(directions):
        packet = first if direction is OUT else back
        out += events(flow, packet, START + number, direction, Limits().stream_buffer, burst=direction is OUT)
    return out


def test_datagrams_open_a_flow_when_they_are_answered() -> None:
    assert datagrams(OUT, OUT, OUT) == []
    assert datagrams(OUT, OUT, Direction.IN, OUT) == [Opened(START, START + 2), Burst(START + 3)]


def test_an_answer_to_another_handshake_opens_nothing() -> None:
    talk = Talk()
    talk._out(2)
    talk.seq += 5
    talk._in(0x12)
    assert feed(talk) == []


def test_data_before_the_answer_is_not_taken() -> None:
    talk = Talk()
    talk._out(2)
    talk.seq += 1
    talk.client(b"early")
    with pytest.raises(SegmentOverflowError):
        feed(talk)
    assert [type(event) for event in feed(talk, Mode.MONITOR)] == [Opened]


def test_bytes_come_in_order_and_a_contradiction_is_an_event() -> None:
    talk = Talk().open().raw_client(4, b"2.0-x\r\n").raw_client(0, b"SSH-").raw_client(0, b"ssh-")
    assert [type(event) for event in feed(talk)] == [Opened, SshSpoken, Inconsistent]


@pytest.mark.parametrize("mode", [Mode.ENFORCE, Mode.MONITOR])
def test_a_flow_that_an_event_releases_gets_no_other_dissector_for_the_rest_of_the_segment(mode: Mode) -> None:
    """The dissector that read the beginning of the segment reads the rest of it, too."""
    talk = Talk().open().raw_client(0, b"XXXX").raw_client(0, b"SSH-2.0-x\r\n")
    first = decode(talk.steps[0].raw)
    flow = Flow(agent(mode=mode), (first.proto, first.src, talk.sport, first.dst, talk.dport), first, START, OUT)
    flow.decide(Verdict(Action.ACCEPT, Reason.DEFAULT))
    seen: list[type] = []
    for number, step in enumerate(talk.steps):
        packet = decode(step.raw)
        for event in events(flow, packet, START + number, step.direction, Limits().stream_buffer, burst=False):
            seen.append(type(event))
            if isinstance(event, Inconsistent):
                flow.release()
    assert seen == [Opened, Inconsistent] and flow.dissector is None


def test_a_flow_without_payload_has_no_dissector() -> None:
    """A scan opens thousands of connections that never say a word."""
    talk = Talk().open()
    first = decode(talk.steps[0].raw)
    flow = Flow(agent(), (first.proto, first.src, talk.sport, first.dst, talk.dport), first, START, Direction.OUT)
    flow.decide(Verdict(Action.ACCEPT, Reason.DEFAULT))
    for step in talk.steps:
        list(events(flow, decode(step.raw), START, step.direction, Limits().stream_buffer, burst=False))
    assert flow.dissector is None
    last = decode(talk.client(b"x").steps[-1].raw)
    list(events(flow, last, START, Direction.OUT, Limits().stream_buffer, burst=False))
    assert flow.dissector is not None


@pytest.mark.parametrize(
    "said, answered",
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        (client_hello("www.example.org"), b"\x16\x03\x03\x00\x04\x02\x00\x00\x00"),
        (b"SSH-2.0-Go\r\n", b"SSH-2.0-Go\r\n"),
        (b'{"id":1,"method":"mining.subscribe","params":["cgminer/4.11"]}\n', b""),
        (b"hello", b"world"),
    ],
)
def test_a_closed_flow_is_freed_without_the_garbage_collector(said: bytes, answered: bytes) -> None:
    judge, who = engine(), agent()
    Talk(sport=1).open().client(b"x").reset().play(judge, who)  # what is made once is made now
    gc.collect()
    gc.disable()
    try:
        Talk(sport=2).open().client(said).server(answered).reset().play(judge, who)
        assert judge.stats()["live_flows"] == 2
        judge.tick(START + 10**6)
        assert judge.stats()["live_flows"] == 0
        assert gc.collect() == 0
    finally:
        gc.enable()
