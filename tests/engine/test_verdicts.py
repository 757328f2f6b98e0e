"""Verdicts that change: quarantine and release, an agent with other settings, policies edited under live flows."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egress.engine.engine import Engine
from egress.engine.outcome import Outcome
from egress.engine.tracker import TURN
from egress.limits import Limits
from egress.model import (
    ICMP,
    SYN,
    Action,
    Agent,
    Budget,
    BudgetSpan,
    Direction,
    Measure,
    Mode,
    Policy,
    PolicyChange,
    Reason,
    Rule,
)
from egress.records.shape import FlowRecord
from tests.engine.resolver import AAAA, RESOLVER4, A, question, reply
from tests.examples import examples
from tests.policy.test_rulebook_reference import NAMES, changes, rules
from tests.traffic import (
    AGENT4,
    SERVER4,
    START,
    Talk,
    agent,
    client_hello,
    echo,
    engine,
    ip_packet,
    tcp,
    udp,
)

OUT, IN = Direction.OUT, Direction.IN
MANY = 350  # flows: more than are judged again at once
SUBSCRIBE = b'{"id": 1, "method": "mining.subscribe", "params": ["cgminer/4.11"]}\n'
CUT_OFF = (Action.REJECT, Reason.QUARANTINE)


def allow(name: str = "r1", destination: str = "any", **more: object) -> Rule:
    return Rule(**({"id": name, "action": Action.ACCEPT, "destination": destination} | more))  # type: ignore[arg-type]


def said(outcome: Outcome) -> tuple[Action, Reason]:
    return outcome.verdict.action, outcome.verdict.reason


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("size", [1, 30_000], ids=["live", "settled"])
def test_a_quarantine_cuts_off_everything_both_ways_in_every_mode(mode: Mode, size: int) -> None:
    judge, who = engine(allow(), limits=Limits(settle_bytes=20_000)), agent(mode=mode)
    talk = Talk().open().client(bytes(range(128, 129)) * size)
    assert talk.play(judge, who).outcomes[-1].verdict.settled is (size > 1)
    cut = replace(who, quarantined=True)
    for step in talk.client(b"x").server(b"y").steps[-2:]:
        assert said(judge.packet(step.raw, START + 1, cut, step.direction)) == CUT_OFF
    error = ip_packet("192.0.2.1", AGENT4, ICMP, bytes([3, 4, 0, 0, 0, 0, 0, 0]) + talk.steps[0].raw[:28])
    for raw, direction in (
        (tcp(AGENT4, SERVER4, 1, 443, SYN, 1, 0), OUT),
        (tcp(SERVER4, AGENT4, 1, 22, SYN, 1, 0), IN),
        (udp(AGENT4, RESOLVER4, 5, 53, question("www.example.test")), OUT),
        (echo(AGENT4, SERVER4, 7, b""), OUT),
        (error, IN),
    ):
        assert said(judge.packet(raw, START + 1, cut, direction)) == CUT_OFF
    for raw in (b"", tcp("198.51.100.1", SERVER4, 1, 80, SYN, 1, 0)):
        assert judge.packet(raw, START + 1, cut, OUT).verdict.action is Action.DROP
    assert not judge.holds


@pytest.mark.parametrize("mode", list(Mode))
def test_a_release_gives_back_what_only_the_quarantine_refused(mode: Mode) -> None:
    judge, who = engine(allow("one", "192.0.2.1", once=True), allow("rest", SERVER4)), agent(mode=mode)
    Talk().open().client(SUBSCRIBE).play(judge, who)
    Talk(sport=2).open().play(judge, who)
    cut = replace(who, quarantined=True)
    once = udp(AGENT4, "192.0.2.1", 3, 9, b"x")
    for raw in (tcp(AGENT4, SERVER4, 40000, 443, SYN, 1000, 0), tcp(AGENT4, SERVER4, 2, 443, SYN, 9, 0), once):
        assert judge.packet(raw, START + 1, cut, OUT).verdict.action is Action.REJECT
    back = replace(who)
    assert said(judge.packet(once, START + 2, back, OUT)) == (Action.ACCEPT, Reason.RULE)
    assert judge._judge.rules.hits["one"][0] == 1
    other = judge.packet(udp(AGENT4, "192.0.2.1", 4, 9, b"x"), START + 2, replace(back, default=Action.REJECT), OUT)
    assert other.verdict.reason in (Reason.DEFAULT, Reason.APPROVAL), "the rule was used up by the first"
    assert said(judge.packet(tcp(AGENT4, SERVER4, 2, 443, SYN, 99, 0), START + 2, back, OUT))[0] is Action.ACCEPT
    found = judge.packet(tcp(AGENT4, SERVER4, 40000, 443, SYN, 99, 0), START + 2, back, OUT)
    assert said(found) == (Action.ACCEPT if mode is Mode.MONITOR else Action.REJECT, Reason.FINDING)


def test_the_middle_of_a_connection_that_was_cut_off_does_not_come_back() -> None:
    judge, who = engine(), agent()
    talk = Talk().open().client(SUBSCRIBE[:30])
    talk.play(judge, who)
    cut = replace(who, quarantined=True)
    judge.packet(talk.client(SUBSCRIBE[30:40]).steps[-1].raw, START + 1, cut, OUT)
    rest = talk.client(SUBSCRIBE[40:]).steps[-1].raw
    assert said(judge.packet(rest, START + 2, who, OUT)) == (Action.REJECT, Reason.MIDSTREAM)


def test_another_default_or_budget_reaches_refused_flows() -> None:
    judge, who = engine(), agent(default=Action.REJECT)
    first = udp(AGENT4, SERVER4, 1, 9, b"x")
    assert said(judge.packet(first, START, who, OUT)) == (Action.REJECT, Reason.DEFAULT)
    none = agent(budgets=(Budget(Measure.CONNECTIONS, 0, BudgetSpan.HOUR),))
    assert said(judge.packet(first, START + 1, none, OUT)) == (Action.REJECT, Reason.BUDGET)
    two = agent(budgets=(Budget(Measure.CONNECTIONS, 3, BudgetSpan.HOUR),))
    outcomes = [judge.packet(udp(AGENT4, SERVER4, port, 9, b"x"), START + 2, two, OUT) for port in (1, 2, 3)]
    assert [outcome.verdict.action for outcome in outcomes] == [Action.ACCEPT] * 2 + [Action.REJECT]


def test_a_change_leaves_alone_what_it_is_not_about() -> None:
    judge = engine(allow("near", "192.0.2.0/24"), allow("far", SERVER4))
    who = agent(default=Action.REJECT)
    for number, remote in enumerate(("192.0.2.1", SERVER4, "198.51.100.1")):
        judge.packet(udp(AGENT4, remote, number, 9, b"x"), START, who, OUT)
    (only,) = judge.change_policy(PolicyChange(1, 2, ("near",)), START + 1)
    assert isinstance(only, FlowRecord)
    assert (only.dst, only.action, only.reason, only.policy_version) == ("192.0.2.1", Action.REJECT, Reason.DEFAULT, 2)
    (tried,) = judge.change_policy(PolicyChange(2, 3, (), (allow("more", "198.51.100.1"),)), START + 2)
    assert isinstance(tried, FlowRecord) and (tried.dst, tried.state) == ("198.51.100.1", "closed")
    assert said(judge.packet(udp(AGENT4, "198.51.100.1", 2, 9, b"x"), START + 3, who, OUT))[0] is Action.ACCEPT
    with pytest.raises(ValueError, match="version 3 is in force"):
        judge.change_policy(PolicyChange(2, 4), START + 3)


def test_a_rule_that_has_just_expired_is_not_forgotten_over_a_change() -> None:
    judge, who = engine(allow("soon", expires_at=START + 5)), agent(default=Action.REJECT)
    judge.packet(udp(AGENT4, SERVER4, 1, 9, b"x"), START, who, OUT)
    assert judge.change_policy(PolicyChange(1, 2, (), (allow("else", "192.0.2.1"),)), START + 6) == ()
    assert judge.next_tick() <= START + 6
    (ended,) = judge.tick(START + 6)
    assert isinstance(ended, FlowRecord) and (ended.action, ended.reason) == (Action.REJECT, Reason.DEFAULT)


# --- edits and whole policies ---------------------------------------------------------------------------

SERVERS = ["203.0.113.9", "203.0.113.200", "8.8.8.8"]
AGENTS = [
    agent(default=Action.REJECT),
    agent(name="a2", default=Action.DROP, labels=("gpu",)),
    agent(name="b1", labels=("t1", "cpu"), mode=Mode.MONITOR, default=Action.REJECT),
]


def some_packet(rng: random.Random, ports: int) -> tuple[bytes, Direction]:
    """Return an opening, a hello with a name, a query or an answer of few flows; the agent's ports start at `ports`."""
    kind, remote, name, local = rng.randrange(5), rng.choice(SERVERS), rng.choice(NAMES), ports + rng.randrange(3)
    port = rng.choice([22, 53, 443, 8080])
    if kind == 0:
        return udp(AGENT4, remote, local, port, b"x" * 30), OUT
    if kind == 1:
        return udp(AGENT4, RESOLVER4, local, 53, question(name, rng.choice([A, AAAA]))), OUT
    if kind == 2:
        return udp(RESOLVER4, AGENT4, 53, local, reply(name, (name, remote))), IN
    talk = Talk(local, port, remote=remote).open()
    talk.client(client_hello(name) if kind == 3 else b"SSH-2.0-x\r\n")
    step = rng.choice(talk.steps)
    return step.raw, step.direction


def play(judge: Engine, seed: int, ts: float, ports: int) -> list[tuple[str, Action, Reason, str]]:
    """Play traffic of new flows; returns the verdicts."""
    rng, made = random.Random(seed), []
    for _ in range(40):
        who: Agent = rng.choice(AGENTS)
        raw, direction = some_packet(rng, ports)
        verdict = judge.packet(raw, ts, who, direction).verdict
        made.append((who.name, verdict.action, verdict.reason, verdict.rule_id))
    return made


def passing(judge: Engine) -> dict[str, tuple[Reason, str]]:
    """The flows that may go on, and the reason for each."""
    flows = judge._tracker.flows()
    return {flow.id: (flow.verdict.reason, flow.verdict.rule_id) for flow in flows if not flow.refused}


@pytest.mark.slow
@settings(max_examples=examples(60), deadline=None)
@given(st.lists(rules, max_size=8), st.integers(0, 2**32), st.data())
def test_an_edit_and_the_whole_policy_give_equal_verdicts(live: list[Rule], seed: int, data: st.DataObject) -> None:
    """Both cut the same live flows and judge new flows alike. DNS is allowed, so that there are bindings."""
    dns = allow("dns", RESOLVER4, ports=((53, 53),), position=-9)
    one, two = (Engine(Limits(), Policy(0, (dns, *live)), []) for _ in range(2))
    for version in range(4):
        ts = START + version
        for each in (one, two):
            each.tick(ts)
        assert play(one, seed + version, ts, 10 * version) == play(two, seed + version, ts, 10 * version)
        change = data.draw(changes(live, version))
        live = [rule for rule in live if rule.id not in change.removed] + list(change.added)
        one.change_policy(change, ts)
        two.set_policy(Policy(version + 1, (dns, *live)), ts)
        for each in (one, two):
            while each.next_tick() <= ts:  # the flows beyond the first hundred
                each.tick(ts)
        assert passing(one) == passing(two)


def test_names_are_on_record() -> None:
    judge, who = engine(allow("dns", RESOLVER4), allow("x", "**.example.test")), agent(default=Action.REJECT)
    for number in range(10):
        name = f"n{number}.example.test"
        judge.packet(udp(AGENT4, RESOLVER4, 1, 53, question(name)), START, who, OUT)
        judge.packet(udp(RESOLVER4, AGENT4, 53, 1, reply(name, (name, SERVER4))), START, who, IN)
    (record,) = judge.packet(udp(AGENT4, SERVER4, 1, 9, b"x"), START, who, OUT).records
    assert isinstance(record, FlowRecord) and ip_address(record.dst)
    assert record.names == tuple(f"n{number}.example.test" for number in range(8))


# --- many flows -------------------------------------------------------------------------------------


def flows(records: tuple[object, ...]) -> list[FlowRecord]:
    return [record for record in records if isinstance(record, FlowRecord)]


def crowd(judge: Engine, who: Agent) -> list[bytes]:
    packets = [udp(AGENT4, SERVER4, 20000 + port, 5300, b"x") for port in range(MANY)]
    for raw in packets:
        judge.packet(raw, START, who, OUT)
    return packets


@pytest.mark.parametrize("whole", [True, False])
def test_no_packet_passes_by_rules_that_are_not_in_force_however_many_flows_there_are(whole: bool) -> None:
    judge, who = engine(allow()), agent(default=Action.REJECT)
    packets = crowd(judge, who)
    if whole:
        refused = flows(judge.set_policy(Policy(2), START + 1))
    else:
        refused = flows(judge.change_policy(PolicyChange(1, 2, ("r1",)), START + 1))
    assert len(refused) == TURN and judge.next_tick() < START
    late = judge.packet(packets[-1], START + 1, who, OUT)
    assert said(late) == (Action.REJECT, Reason.DEFAULT)
    refused += flows(late.records)
    while judge.next_tick() <= START + 1:
        turn = flows(judge.tick(START + 1))
        assert len(turn) <= TURN
        refused += turn
    assert len({record.flow_id for record in refused}) == len(refused) == MANY
    assert {record.action for record in refused} == {Action.REJECT}


def test_many_flows_of_a_rule_that_expires_are_judged_again_in_turns() -> None:
    judge, who = engine(allow(expires_at=START + 5)), agent(default=Action.REJECT)
    packets = crowd(judge, who)
    assert len(flows(judge.tick(START + 5))) == TURN
    assert said(judge.packet(packets[-1], START + 5, who, OUT)) == (Action.REJECT, Reason.DEFAULT)
    # A change that does not concern them does not make up for the rule that has expired.
    judge.change_policy(PolicyChange(1, 2, added=(allow("r2", "192.0.2.77"),)), START + 5)
    assert said(judge.packet(packets[-2], START + 5, who, OUT)) == (Action.REJECT, Reason.DEFAULT)
    judge.release(who.name, START + 6)
    while judge.next_tick() <= START + 6:
        judge.tick(START + 6)
    assert judge.stats()["live_flows"] == 0
