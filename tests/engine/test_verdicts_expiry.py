"""A flow ends with the rule that admitted it, even if clock or policy changed meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import pytest

from egress.engine.tracker import TURN
from egress.limits import Limits
from egress.model import (
    ACK,
    SYN,
    Action,
    Budget,
    BudgetSpan,
    Direction,
    Measure,
    Policy,
    PolicyChange,
    Reason,
    Rule,
)
from egress.policy.rulebook import Rulebook
from egress.records.shape import FlowRecord
from tests.traffic import AGENT4, SERVER4, START, Talk, agent, engine, tcp, udp

OUT = Direction.OUT


def syn(sport: int) -> bytes:
    return tcp(AGENT4, SERVER4, sport, 443, SYN, 1000, 0)


def test_a_rule_that_a_clock_set_back_revives_ends_all_the_same() -> None:
    until = START + 100
    gate, who = engine(Rule("short", Action.ACCEPT, expires_at=until)), agent(default=Action.REJECT)
    gate.tick(until + 1)
    assert gate.packet(syn(40000), until - 50, who, OUT).verdict.action is Action.ACCEPT
    assert gate.next_tick() <= until
    gate.tick(until)
    assert gate.packet(syn(40000), until + 0.1, who, OUT).verdict.action is Action.REJECT


def test_a_once_rule_that_is_gone_still_expires_for_the_flow_it_admitted() -> None:
    until = START + 100
    gate, who = engine(Rule("single", Action.ACCEPT, once=True, expires_at=until)), agent(default=Action.REJECT)
    assert gate.packet(syn(40000), START, who, OUT).verdict.action is Action.ACCEPT
    gate.change_policy(PolicyChange(1, 2, ("single",), ()), START + 1)
    assert gate.packet(syn(40000), START + 3, who, OUT).verdict.action is Action.ACCEPT
    gate.tick(until)
    assert gate.packet(syn(40000), until + 0.1, who, OUT).verdict.action is Action.REJECT


def test_a_name_rule_that_is_gone_is_still_about_a_name() -> None:
    rule = Rule("single", Action.ACCEPT, destination="www.example.test", once=True)
    book = Rulebook(Policy(1, (rule,)))
    book.apply(PolicyChange(1, 2, ("single",), ()))
    assert book.named(rule)
    assert not book.named(Rule("other", Action.ACCEPT, destination="192.0.2.0/24"))


def test_a_flow_that_stays_refused_after_its_rule_has_expired_keeps_nothing_due() -> None:
    """A tick that finds no work asks for none at once, or the gateway would do nothing else."""
    until = START + 100
    budget = Budget(Measure.BYTES, 10, BudgetSpan.HOUR)
    gate = engine(Rule("short", Action.ACCEPT, expires_at=until))
    who = agent(default=Action.REJECT, budgets=(budget,))
    refused = gate.packet(syn(40000), until - 1, who, OUT).verdict
    assert (refused.action, refused.reason) == (Action.REJECT, Reason.BUDGET)
    gate.tick(until)
    assert gate.next_tick() > until


def test_a_flow_to_a_destination_that_is_no_longer_refused_passes_when_a_rule_has_it_judged_again() -> None:
    gate = engine(Rule("all", Action.ACCEPT), limits=Limits(destination_timeout=10.0))
    gate.change_policy(
        PolicyChange(1, 2, (), (Rule("short", Action.ACCEPT, expires_at=START + 60, position=1),)), START
    )
    who = agent(default=Action.REJECT)
    gate._judge.destinations.remember("a1", ip_address(SERVER4).packed, START)
    first = udp(AGENT4, SERVER4, 7, 9, b"x")
    assert gate.packet(first, START + 1, who, OUT).verdict.reason is Reason.DESTINATION
    (record,) = gate.tick(START + 60)
    assert isinstance(record, FlowRecord) and (record.action, record.rule_id) == (Action.ACCEPT, "all")
    assert gate.packet(first, START + 61, who, OUT).verdict.action is Action.ACCEPT


def test_rules_that_expire_one_after_another_free_no_refused_flow() -> None:
    """Flows that wait to be judged again because of the first rule still wait only by time after the second."""
    brief = [
        Rule(name, Action.ACCEPT, destination="192.0.2.1", expires_at=START + after)
        for name, after in (("a", 10.0), ("b", 10.001))
    ]
    gate, who = engine(Rule("all", Action.ACCEPT, destination=SERVER4), *brief), agent(default=Action.REJECT)
    for port in range(3 * TURN):
        gate.packet(udp(AGENT4, SERVER4, 10_000 + port, 9, b"x"), START, who, OUT)
    (last,) = (flow for flow in gate._tracker.flows() if flow.lport == 10_000 + 3 * TURN - 1)
    gate._verdicts.object_to(last, Reason.QUERY, START + 1)
    again = udp(AGENT4, SERVER4, last.lport, 9, b"x")
    assert gate.packet(again, START + 2, who, OUT).verdict.reason is Reason.QUERY
    gate.tick(START + 10)
    gate.tick(START + 10.001)
    verdict = gate.packet(again, START + 10.002, who, OUT).verdict
    assert (verdict.action, verdict.reason) == (Action.REJECT, Reason.QUERY)


def test_a_rule_that_has_expired_admits_no_packet_before_the_tick_either() -> None:
    until, who = START + 100, agent(default=Action.REJECT)
    gate, talk = engine(Rule("short", Action.ACCEPT, expires_at=until)), Talk().open()
    assert talk.play(gate, who).outcomes[-1].verdict.action is Action.ACCEPT
    late = gate.packet(
        tcp(talk.local, talk.remote, talk.sport, talk.dport, ACK, talk.seq, talk.ack, b"x"), until, who, OUT
    )
    assert (late.verdict.action, late.verdict.reason) == (Action.REJECT, Reason.DEFAULT)
    assert gate.packet(syn(40001), until, who, OUT).verdict.action is Action.REJECT


@pytest.mark.parametrize("end", [Talk.reset, Talk.close])
@pytest.mark.parametrize("by", ["edit", "time"])
def test_a_flow_that_seems_over_is_judged_by_the_rules_of_its_next_packet(end: Callable[[Talk], Talk], by: str) -> None:
    """An agent may send a RST or FIN that its server ignores; the record of a flow that is over stays as it was."""
    until, who = START + 100, agent(default=Action.REJECT)
    gate = engine(Rule("short", Action.ACCEPT, expires_at=until if by == "time" else None))
    talk = end(Talk().open())
    talk.play(gate, who)
    if by == "edit":
        gate.change_policy(PolicyChange(1, 2, ("short",), ()), until - 98)
        assert gate.tick(until - 98) == ()
        assert gate.next_tick() > until - 98, "a flow that is over must not keep the worker awake"
    now = until if by == "time" else until - 97
    more = tcp(talk.local, talk.remote, talk.sport, talk.dport, ACK, talk.seq, talk.ack, b"x")
    outcome = gate.packet(more, now, who, OUT)
    assert (outcome.verdict.action, outcome.verdict.reason) == (Action.REJECT, Reason.DEFAULT)
    (record,) = outcome.records
    assert isinstance(record, FlowRecord) and record.action is Action.REJECT
