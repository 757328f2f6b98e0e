"""Limits that run out, through the engine: budgets in mid-flow, rules that expire, rules that are valid once."""

from __future__ import annotations

import pytest

from egress.engine.engine import Engine
from egress.limits import Limits
from egress.model import Action, Budget, BudgetSpan, Measure, Mode, Policy, Reason, Rule
from egress.records.shape import FlowRecord
from tests.traffic import AGENT4, AGENT6, SERVER4, SERVER6, START, Talk, agent

FAMILIES = pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])
ALL = Rule("all", Action.ACCEPT)
OTHERS = ("203.0.113.10", "2001:db8::10")


def talk(v6: bool, sport: int = 40000, remote: str = "") -> Talk:
    return Talk(sport=sport, local=AGENT6 if v6 else AGENT4, remote=remote or (SERVER6 if v6 else SERVER4))


def engine(*rules: Rule, limits: Limits | None = None) -> Engine:
    return Engine(limits or Limits(), Policy(1, rules or (ALL,)), [])


@FAMILIES
@pytest.mark.parametrize("settle_bytes", [65536, 2000])
def test_bytes_run_out_in_mid_flow_also_of_a_settled_one(v6: bool, settle_bytes: int) -> None:
    who = agent(default=Action.REJECT, budgets=(Budget(Measure.BYTES, 10_000, BudgetSpan.HOUR),))
    inline = engine(limits=Limits(settle_bytes=settle_bytes))
    made = talk(v6).open().client(b"\x01" * 14_000, segment=1000)
    played = made.play(inline, who)
    assert 8_000 < len(played.passed(made.steps)) < 10_000
    assert played.outcomes[-1].verdict.reason is Reason.BUDGET
    assert {outcome.verdict.settled for outcome in played.outcomes} == (
        {False} if settle_bytes > 10_000 else {False, True}
    )
    records = [record for record in played.records if isinstance(record, FlowRecord)]
    assert [(record.action, record.reason) for record in records][-1] == (Action.REJECT, Reason.BUDGET)
    nothing = talk(v6, 2).open().play(inline, who, played.end)
    assert set(nothing.actions) == {Action.REJECT}
    fresh = talk(v6, 3).open().client(b"x").play(inline, who, START + 3600)
    assert set(fresh.actions) == {Action.ACCEPT}


@FAMILIES
def test_connections_run_out_and_those_that_stand_go_on(v6: bool) -> None:
    who = agent(default=Action.REJECT, budgets=(Budget(Measure.CONNECTIONS, 2, BudgetSpan.EPISODE),))
    inline, talks = engine(), [talk(v6, sport).open() for sport in (1, 2, 3)]
    played = [made.play(inline, who) for made in talks]
    assert [set(each.actions) for each in played] == [{Action.ACCEPT}, {Action.ACCEPT}, {Action.REJECT}]
    assert {outcome.verdict.reason for outcome in played[2].outcomes} == {Reason.BUDGET}
    talks[0].steps.clear()
    assert talks[0].client(b"on").play(inline, who, START + 9).actions == [Action.ACCEPT]
    inline.release("a1", START + 10)
    assert talk(v6, 4).open().play(inline, who, START + 10).actions[0] is Action.ACCEPT


@FAMILIES
def test_destinations_run_out_and_known_ones_stay_reachable(v6: bool) -> None:
    who = agent(default=Action.REJECT, budgets=(Budget(Measure.DESTINATIONS, 1, BudgetSpan.EPISODE),))
    inline = engine()
    assert talk(v6, 1).open().play(inline, who).actions[0] is Action.ACCEPT
    other = talk(v6, 2, OTHERS[v6]).open().play(inline, who)
    assert [outcome.verdict.reason for outcome in other.outcomes] == [Reason.BUDGET] * 3
    assert talk(v6, 3).open().play(inline, who).actions[0] is Action.ACCEPT


def test_in_monitor_mode_a_budget_is_written_down() -> None:
    who = agent(mode=Mode.MONITOR, budgets=(Budget(Measure.CONNECTIONS, 0, BudgetSpan.HOUR),))
    played = talk(v6=False).open().play(engine(), who)
    assert set(played.actions) == {Action.ACCEPT}
    assert played.outcomes[0].verdict.reason is Reason.BUDGET


@FAMILIES
def test_a_rule_expires_at_its_instant(v6: bool) -> None:
    """The tick re-judges living flows at that moment; new flows are judged by their own time."""
    inline, who = engine(Rule("soon", Action.ACCEPT, expires_at=START + 2)), agent(default=Action.REJECT)
    made = talk(v6, 1).open()
    made.play(inline, who)
    assert inline.next_tick() <= START + 2
    assert talk(v6, 2).open().play(inline, who, START + 1.9).actions[0] is Action.ACCEPT
    assert not any(record.action is Action.REJECT for record in flows(inline.tick(START + 1.999)))
    ended = flows(inline.tick(START + 2))
    assert [(record.sport, record.action, record.reason) for record in ended] == [
        (sport, Action.REJECT, Reason.DEFAULT) for sport in (1, 2)
    ]
    made.steps.clear()
    assert made.client(b"late").play(inline, who, START + 2).actions == [Action.REJECT]
    assert talk(v6, 3).open().play(inline, who, START + 2).actions[0] is Action.REJECT
    assert inline.next_tick() > START + 2


def flows(records: tuple[object, ...]) -> list[FlowRecord]:
    return [record for record in records if isinstance(record, FlowRecord)]


@FAMILIES
def test_once_admits_one_flow_to_its_end(v6: bool) -> None:
    rules = (Rule("one", Action.ACCEPT, once=True),)
    inline, who = engine(*rules), agent(default=Action.REJECT)
    made = talk(v6, 1).open().client(b"\x16\x03\x01hello")
    assert set(made.play(inline, who).actions) == {Action.ACCEPT}
    assert set(talk(v6, 2).open().play(inline, who, START + 1).actions) == {Action.REJECT}
    inline.set_policy(Policy(2, (*rules, Rule("more", Action.ACCEPT, destination="192.0.2.1"))), START + 2)
    made.steps.clear()
    assert made.client(b"on").play(inline, who, START + 3).actions == [Action.ACCEPT]
    assert set(talk(v6, 3).open().play(inline, who, START + 3).actions) == {Action.REJECT}
