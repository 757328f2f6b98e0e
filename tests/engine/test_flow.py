"""Counters, states, and the side that spoke first."""

from __future__ import annotations

import pytest

from egress.engine.flow import Flow
from egress.limits import Limits
from egress.model import ACK, FIN, PSH, RST, SYN, TCP, Action, Direction, Packet, Reason, Verdict
from egress.wire.packet import decode
from tests.traffic import AGENT4, SERVER4, START, agent, tcp

OUT, IN = Direction.OUT, Direction.IN
GAP = Limits().idle_gap


def segment(flags: int, seq: int = 1, ack: int = 1, data: bytes = b"") -> Packet:
    return decode(tcp(AGENT4, SERVER4, 40000, 443, flags, seq, ack, data))


def flow(flags: int = SYN, direction: Direction = OUT) -> Flow:
    first = segment(flags)
    made = Flow(agent(), (TCP, first.src, 40000, first.dst, 443), first, START, direction)
    made.decide(Verdict(Action.ACCEPT, Reason.DEFAULT))
    return made


@pytest.mark.parametrize(
    ("flags", "direction", "outbound", "picked_up"),
    [
        (SYN, OUT, True, False),
        (SYN, IN, False, False),
        (SYN | ACK, IN, True, False),
        (SYN | ACK, OUT, False, False),
        (ACK, IN, True, True),
        (PSH | ACK, OUT, True, True),
    ],
)
def test_who_opened_it(flags: int, direction: Direction, outbound: bool, picked_up: bool) -> None:
    made = flow(flags, direction)
    assert (made.outbound, made.picked_up) == (outbound, picked_up)
    assert made.server_port == (443 if outbound else 40000)


def test_states() -> None:
    made = flow()
    assert not made.advance(SYN, OUT) and made.state == "new"
    assert not made.advance(SYN | ACK, IN) and made.state == "established"
    assert not made.advance(FIN | ACK, OUT) and made.state == "established"
    assert not made.advance(FIN | ACK, OUT) and made.state == "established"
    assert made.advance(FIN | ACK, IN) and made.state == "closed"
    assert not made.advance(RST, IN)
    broken = flow()
    assert broken.advance(RST, IN) and broken.state == "closed"


def test_the_agents_fin_closes_a_settled_flow_because_the_other_is_not_queued() -> None:
    made = flow()
    made.settle(listening=False)
    assert made.advance(FIN | ACK, OUT) and made.state == "closed"


def test_a_burst_begins_when_the_agent_breaks_a_silence() -> None:
    made = flow()
    speak = [(0.0, OUT, 1, True), (0.1, OUT, 2, False), (0.1 + GAP, OUT, 3, True), (1.0, IN, 1, False)]
    speak += [(1.1, OUT, 4, False), (1.1 + GAP, OUT, 5, True), (3.0, OUT, 5, False)]  # the last one is a retransmission
    for at, direction, seq, first in speak:
        packet = segment(PSH | ACK, seq, 1, b"x")
        assert made.client_first(packet, START + at, direction, GAP) is first, at


def test_a_settled_flow_hears_the_server_through_the_agents_acknowledgements() -> None:
    made = flow()
    made.client_first(segment(ACK, 1, 1000), START, OUT, GAP)
    made.settle(listening=False)
    assert not made.client_first(segment(ACK, 1, 5000), START + 5, OUT, GAP)
    assert made.bytes_in == 4000
    assert not made.client_first(segment(PSH | ACK, 1, 5000, b"x"), START + 5.1, OUT, GAP)
    assert made.client_first(segment(PSH | ACK, 2, 5000, b"x"), START + 9, OUT, GAP)


def test_timeouts_and_what_may_be_forgotten() -> None:
    limits = Limits()
    made = flow()
    assert made.timeout(limits) == limits.tcp_handshake and not made.forgettable(START + 1)
    made.state = "established"
    assert made.timeout(limits) == limits.tcp_established
    made.decide(Verdict(Action.REJECT, Reason.DEFAULT))
    assert made.timeout(limits) == limits.tcp_closed and made.forgettable(START + 1)
    made.condemn()
    assert made.timeout(limits) == limits.refused_timeout and not made.forgettable(START + 10**6)


def test_a_flow_that_waits_for_a_person_is_waited_for_and_costs_no_protection() -> None:
    limits, made = Limits(), flow()
    made.decide(Verdict(Action.HOLD, Reason.APPROVAL), "0123456789abcdef")
    assert made.timeout(limits) > limits.ask_timeout and made.forgettable(START + 1)
    made.count(segment(SYN), START, OUT)
    made.uncount(segment(SYN), OUT)
    assert (made.packets_out, made.bytes_out) == (0, 0)
