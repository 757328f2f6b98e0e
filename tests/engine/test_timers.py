"""Timers follow the flow, not the entry, and do not outgrow the flows."""

from __future__ import annotations

from egress.engine.flow import Flow
from egress.engine.timers import SLACK, Timers
from egress.limits import Limits
from egress.model import TCP, Action, Direction, Reason, Verdict
from egress.wire.packet import decode
from tests.traffic import AGENT4, SERVER4, START, agent, tcp

PACKET = decode(tcp(AGENT4, SERVER4, 40000, 443, 2, 1, 0))
KEY = (TCP, PACKET.src, 40000, PACKET.dst, 443)


def flow() -> Flow:
    made = Flow(agent(), KEY, PACKET, START, Direction.OUT)
    made.verdict = Verdict(Action.ACCEPT, Reason.DEFAULT)
    return made


def test_the_flows_state_says_when_it_is_due() -> None:
    limits = Limits()
    timers = Timers(limits)
    live = flow()
    timers.watch(live)
    assert timers.next() == START + limits.tcp_handshake
    live.last, live.state = START + 50, "established"
    assert list(timers.due(START + 61)) == []
    assert timers.next() == START + 50 + limits.tcp_established
    live.state = "closed"
    timers.watch(live)
    assert list(timers.due(START + 50 + limits.tcp_closed)) == [live]
    live.forgotten = True
    assert list(timers.due(START + 10**6)) == []


def test_forgotten_flows_do_not_pile_up() -> None:
    timers = Timers(Limits())
    kept = flow()
    timers.watch(kept)
    for _ in range(3 * SLACK):
        gone = flow()
        timers.watch(gone)
        gone.forgotten = True
        timers.trim(1)
        assert timers.entries() <= SLACK + 3
    assert list(timers.due(START + 10**6)) == [kept]
