"""Whose addresses are whose, who makes room for whom."""

from __future__ import annotations

from egress.engine.flow import Flow
from egress.engine.tracker import Tracker
from egress.limits import Limits
from egress.model import TCP, Action, Direction, Reason, Verdict
from egress.wire.packet import decode
from tests.traffic import AGENT4, SERVER4, START, agent, tcp

PACKET = decode(tcp(AGENT4, SERVER4, 40000, 443, 2, 1, 0))


def add(tracker: Tracker, name: str, port: int, *, settled: bool = False, condemned: bool = False) -> Flow:
    key = (TCP, PACKET.src, port, PACKET.dst, 443)
    flow = Flow(agent(name=name), key, PACKET, START, Direction.OUT)
    flow.verdict = Verdict(Action.REJECT if condemned else Action.ACCEPT, Reason.DEFAULT, settled=settled)
    flow.condemned = condemned
    tracker.add(flow)
    return flow


def test_an_agent_makes_room_among_its_own() -> None:
    tracker = Tracker(Limits(max_flows_agent=3))
    add(tracker, "a", 1), add(tracker, "a", 2, condemned=True), add(tracker, "a", 3, settled=True)
    add(tracker, "b", 1, settled=True)
    (ended,) = tracker.make_room(tracker.table("a"), START + 1) or ()
    assert (ended.agent, ended.sport, ended.state) == ("a", 3, "evicted")
    add(tracker, "a", 4)
    assert tracker.make_room(tracker.table("a"), START + 1) is None
    assert tracker.make_room(tracker.table("b"), START + 1) == ()


def test_a_full_engine_takes_from_the_agent_with_the_most() -> None:
    tracker = Tracker(Limits(max_flows=4))
    for port in range(4):
        add(tracker, "a", port, settled=True)
    (ended,) = tracker.make_room(tracker.table("b"), START + 1) or ()
    assert ended.agent == "a" and tracker.live == 3


def test_an_idle_undecided_flow_may_go() -> None:
    tracker = Tracker(Limits(max_flows_agent=1))
    add(tracker, "a", 1)
    assert tracker.make_room(tracker.table("a"), START + 29) is None
    assert tracker.make_room(tracker.table("a"), START + 31) is not None


def test_a_dropped_agent_leaves_nothing() -> None:
    tracker = Tracker(Limits())
    add(tracker, "a", 1), add(tracker, "a", 2), add(tracker, "b", 1)
    assert [ended.agent for ended in tracker.drop("a", START)] == ["a", "a"]
    assert tracker.agents() == ["b"] and tracker.live == 1
