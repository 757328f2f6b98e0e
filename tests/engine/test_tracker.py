"""Bounded tables: which flows make room; timers that follow their flows and do not outgrow them."""

from __future__ import annotations

from egress.engine.flow import Flow
from egress.engine.outbox import Outbox
from egress.engine.tracker import SLACK, TURN, Timers, Tracker
from egress.limits import Limits
from egress.model import TCP, Action, Direction, Reason, Verdict
from egress.records.shape import FlowRecord
from egress.wire.packet import decode
from tests.traffic import AGENT4, SERVER4, START, Talk, agent, engine, tcp

PACKET = decode(tcp(AGENT4, SERVER4, 40000, 443, 2, 1, 0))


def flow(name: str = "a", port: int = 40000) -> Flow:
    made = Flow(agent(name=name), (TCP, PACKET.src, port, PACKET.dst, 443), PACKET, START, Direction.OUT)
    made.decide(Verdict(Action.ACCEPT, Reason.DEFAULT))
    return made


def add(tracker: Tracker, name: str, port: int, *, settled: bool = False, condemned: bool = False) -> Flow:
    made = flow(name, port)
    if condemned:
        made.condemn()
        made.decide(Verdict(Action.REJECT, Reason.DEFAULT))
    if settled:
        made.settle(listening=False)
    tracker.add(made)
    return made


def ended(outbox: Outbox) -> list[FlowRecord]:
    records = outbox.take()
    return [record for record in records if isinstance(record, FlowRecord) and record.end is not None]


def test_an_agent_makes_room_among_its_own() -> None:
    outbox = Outbox(Limits())
    tracker = Tracker(Limits(max_flows_agent=3), outbox)
    add(tracker, "a", 1), add(tracker, "a", 2, condemned=True), add(tracker, "a", 3, settled=True)
    add(tracker, "b", 1, settled=True)
    assert tracker.make_room(tracker.table("a"), START + 1)
    (gone,) = ended(outbox)
    assert (gone.agent, gone.sport, gone.state) == ("a", 3, "evicted")
    add(tracker, "a", 4)
    assert not tracker.make_room(tracker.table("a"), START + 1)
    assert tracker.make_room(tracker.table("b"), START + 1) and not outbox.records


def test_a_full_engine_takes_from_the_agent_with_the_most() -> None:
    outbox = Outbox(Limits())
    tracker = Tracker(Limits(max_flows=4), outbox)
    for port in range(4):
        add(tracker, "a", port, settled=True)
    assert tracker.make_room(tracker.table("b"), START + 1)
    (gone,) = ended(outbox)
    assert gone.agent == "a" and tracker.live == 3


def test_an_idle_undecided_flow_may_go() -> None:
    tracker = Tracker(Limits(max_flows_agent=1), Outbox(Limits()))
    add(tracker, "a", 1)
    assert not tracker.make_room(tracker.table("a"), START + 29)
    assert tracker.make_room(tracker.table("a"), START + 31)


def test_a_dropped_agent_leaves_nothing() -> None:
    outbox = Outbox(Limits())
    tracker = Tracker(Limits(), outbox)
    add(tracker, "a", 1), add(tracker, "a", 2), add(tracker, "b", 1)
    tracker.drop("a", START)
    assert [gone.agent for gone in ended(outbox)] == ["a", "a"]
    assert tracker.agents() == ["b"] and tracker.live == 1


def test_a_refused_flow_has_one_timer_and_a_forgotten_one_has_none() -> None:
    judge, who = engine(), agent(default=Action.REJECT)
    talk = Talk()
    talk.open().play(judge, who)
    assert judge._tracker._timers.entries() == 1
    judge.release(who.name, START + 1)
    assert judge.next_tick() == float("inf")


def test_many_due_flows_are_forgotten_in_turns() -> None:
    outbox, late = Outbox(Limits()), START + 10**5
    tracker = Tracker(Limits(), outbox)
    for port in range(3 * TURN + 1):
        add(tracker, "a", port)
    turns = []
    while tracker.next_tick() <= late:
        tracker.expire(late)
        turns.append([gone.state for gone in ended(outbox)])
    assert list(map(len, turns)) == [TURN, TURN, TURN, 1]
    assert (
        {state for turn in turns for state in turn} == {"timeout"}
        and tracker.live == 0
        and tracker.next_tick() == float("inf")
    )


def test_timers_that_come_too_early_take_turns_too() -> None:
    tracker = Tracker(Limits(), Outbox(Limits()))
    flows = [add(tracker, "a", port) for port in range(2 * TURN)]
    late = tracker.next_tick()
    for each in flows:
        each.renew(late)
    tracker.expire(late)
    assert tracker.next_tick() <= late
    tracker.expire(late)
    assert tracker.next_tick() > late and tracker.live == 2 * TURN


def test_the_flows_of_a_gone_agent_end_in_turns_and_once_each() -> None:
    outbox, late = Outbox(Limits()), START + 10**5
    tracker = Tracker(Limits(), outbox)
    for port in range(2 * TURN + 1):
        add(tracker, "a", port)
    tracker.drop("a", START)
    gone = ended(outbox)
    assert len(gone) == TURN and tracker.agents() == [] and tracker.next_tick() < START
    add(tracker, "a", 1)  # the name comes back, with the ports of before
    while tracker.next_tick() <= late:
        tracker.expire(late)
        assert len(outbox.records) <= TURN
        gone += ended(outbox)
    assert [flow.state for flow in gone] == ["shutdown"] * (2 * TURN + 1) + ["timeout"]
    assert tracker.live == 0 and tracker.buffered == 0


def test_the_end_of_all_agents_is_not_put_off() -> None:
    outbox = Outbox(Limits())
    tracker = Tracker(Limits(), outbox)
    for name in ("a", "b"):
        for port in range(TURN + 1):
            add(tracker, name, port)
    tracker.drop_all(START)
    assert len(ended(outbox)) == 2 * TURN + 2 and tracker.live == 0 and tracker.agents() == []


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
    live.forget()
    assert list(timers.due(START + 10**6)) == []


def test_forgotten_flows_do_not_pile_up() -> None:
    timers = Timers(Limits())
    kept = flow()
    timers.watch(kept)
    for _ in range(3 * SLACK):
        gone = flow()
        timers.watch(gone)
        gone.forget()
        timers.trim(1)
        assert timers.entries() <= SLACK + 3
    assert list(timers.due(START + 10**6)) == [kept]
