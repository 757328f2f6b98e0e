"""Addresses that a name does not mean, metadata, and IPv4 inside IPv6, packet by packet through the engine."""

from __future__ import annotations

import pytest

from egress.engine.engine import Engine
from egress.limits import Limits
from egress.model import SYN, Action, Direction, Mode, Policy, PolicyChange, Reason, Rule
from egress.records.shape import FindingRecord, FlowRecord, Record
from signatures.beacon_timing import BeaconTiming
from signatures.dns_rebinding import DnsRebinding
from tests.engine.keeper import Keeper
from tests.engine.resolver import AAAA, RESOLVER4, RESOLVER6, A, ask, question, reply, resolve
from tests.traffic import AGENT4, AGENT6, START, Talk, agent, tcp, udp

NAME = "mirror.example.test"
DENIED, FREE = agent(default=Action.REJECT), agent()
ASKER = agent(mode=Mode.ASK, default=Action.REJECT)
OUT = Direction.OUT
INSIDE = ["10.1.2.3", "169.254.169.254", "fd00::7", "64:ff9b::a01:203", "fd00:ec2::254"]


def allow(name: str, destination: str, **more: object) -> Rule:
    return Rule(**({"id": name, "action": Action.ACCEPT, "destination": destination} | more))  # type: ignore[arg-type]


DNS = tuple(allow(f"dns{where}", where, ports=((53, 53),)) for where in (RESOLVER4, RESOLVER6))


def engine(*rules: Rule) -> Engine:
    return Engine(Limits(), Policy(1, (*DNS, *rules)), [DnsRebinding()])


def syn(remote: str, dport: int = 443, sport: int = 40000) -> bytes:
    return tcp(AGENT6 if ":" in remote else AGENT4, remote, sport, dport, SYN, 1000, 0)


def first(judge: Engine, remote: str, who: object = DENIED, ts: float = START + 1, dport: int = 443) -> FlowRecord:
    outcome = judge.packet(syn(remote, dport), ts, who, OUT)  # type: ignore[arg-type]
    (record,) = outcome.records
    assert isinstance(record, FlowRecord) and record.action is outcome.verdict.action
    return record


def found(records: tuple[Record, ...]) -> list[FindingRecord]:
    return [record for record in records if isinstance(record, FindingRecord)]


@pytest.mark.parametrize("remote", INSIDE)
def test_a_name_with_an_address_inside_is_a_finding_and_the_flow_is_refused_with_its_reason(remote: str) -> None:
    judge = engine(allow("mirror", NAME))
    v6 = ":" in remote
    assert ask(judge, DENIED, question(NAME, AAAA if v6 else A), v6=v6).action is Action.ACCEPT
    local, resolver = (AGENT6, RESOLVER6) if v6 else (AGENT4, RESOLVER4)
    message = reply(NAME, (NAME, remote), rtype=AAAA if v6 else A)
    outcome = judge.packet(udp(resolver, local, 53, 5353, message), START, DENIED, Direction.IN)
    (finding,) = found(outcome.records)
    assert (finding.signature, finding.action, outcome.verdict.action) == ("dns.rebinding", *[Action.ACCEPT] * 2)
    assert "rule mirror" in finding.summary
    record = first(judge, remote)
    metadata = remote in ("169.254.169.254", "fd00:ec2::254")
    wanted = (Reason.METADATA, "") if metadata else (Reason.PRIVATE, "mirror")
    assert (record.action, record.reason, record.rule_id) == (Action.REJECT, *wanted)
    assert record.names == (NAME,)
    assert judge.stats()["metadata" if metadata else "private"] == 1
    assert ask(judge, DENIED, question(NAME, 28, 9), START + 2).action is Action.ACCEPT, "the resolver is not shut"


def test_a_private_rule_admits_it_and_nothing_is_found() -> None:
    judge = engine(allow("mirror", NAME, private=True))
    ask(judge, DENIED, question(NAME))
    message = reply(NAME, (NAME, "10.1.2.3"))
    outcome = judge.packet(udp(RESOLVER4, AGENT4, 53, 5353, message), START, DENIED, Direction.IN)
    assert found(outcome.records) == []
    assert first(judge, "10.1.2.3").reason is Reason.RULE


def test_an_edit_of_the_rule_lets_the_next_try_pass() -> None:
    judge = engine(allow("mirror", NAME))
    resolve(judge, DENIED, NAME, (NAME, "10.1.2.3"))
    assert first(judge, "10.1.2.3").reason is Reason.PRIVATE
    judge.change_policy(PolicyChange(1, 2, ("mirror",), (allow("mirror", NAME, private=True),)), START + 2)
    assert judge.packet(syn("10.1.2.3"), START + 3, DENIED, OUT).verdict.reason is Reason.RULE
    judge.change_policy(PolicyChange(2, 3, ("mirror",), (allow("mirror", NAME),)), START + 4)
    assert judge.packet(syn("10.1.2.3"), START + 5, DENIED, OUT).verdict.action is Action.REJECT


def test_the_gateways_address_is_not_meant_though_it_is_global() -> None:
    judge = engine(allow("mirror", NAME))
    judge.set_nearby(("203.0.113.77", "2001:db8:77::/64"))
    for remote in ("203.0.113.77", "2001:db8:77::5"):
        resolve(judge, DENIED, NAME, (NAME, remote), v6=":" in remote)
        assert first(judge, remote).reason is Reason.PRIVATE
    resolve(judge, DENIED, NAME, (NAME, "203.0.113.78"), ts=START + 2)
    assert first(judge, "203.0.113.78").reason is Reason.RULE


def test_names_that_no_rule_allows_and_blocked_names_are_no_finding() -> None:
    judge = engine(allow("mirror", NAME))
    for who, name, address in ((FREE, "intranet.corp.test", "10.1.2.3"), (DENIED, NAME, "0.0.0.0")):
        ask(judge, who, question(name))
        message = reply(name, (name, address))
        outcome = judge.packet(udp(RESOLVER4, AGENT4, 53, 5353, message), START, who, Direction.IN)
        assert found(outcome.records) == []
    assert first(judge, "10.1.2.3", FREE).reason is Reason.DEFAULT


@pytest.mark.parametrize("remote", ["169.254.169.254", "100.100.100.200", "fd00:ec2::254", "64:ff9b::a9fe:a9fe"])
def test_metadata_is_refused_at_its_first_packet_under_a_default_of_allow(remote: str) -> None:
    judge = engine(allow("any", "any"))
    assert (record := first(judge, remote, FREE, dport=80)).reason is Reason.METADATA
    assert (record.action, record.rule_id) == (Action.REJECT, "")
    assert judge.packet(udp(AGENT4, "169.254.169.254", 5353, 53, question("x.test")), START, FREE, OUT).verdict.reason
    named = engine(allow("imds", remote))
    assert first(named, remote, FREE, dport=80).rule_id == "imds"
    watched = agent(mode=Mode.MONITOR)
    outcome = engine().packet(syn(remote, 80), START, watched, OUT)
    assert outcome.verdict.action is Action.ACCEPT, "in mode monitor it passes, on record as refused"
    assert isinstance(outcome.records[0], FlowRecord) and outcome.records[0].reason is Reason.METADATA


@pytest.mark.parametrize("remote", ["64:ff9b::a01:203", "64:ff9b:1::a01:203", "2002:a01:203::1"])
def test_a_deny_rule_is_not_evaded_by_a_form_of_the_address(remote: str) -> None:
    rule = Rule("deny", Action.REJECT, destination="10.0.0.0/8")
    assert first(engine(rule), remote, FREE).rule_id == "deny"
    assert first(engine(), remote, FREE).reason is Reason.DEFAULT


def test_a_refused_destination_is_not_reached_by_its_translated_form() -> None:
    judge = Engine(Limits(), Policy(1, ()), [BeaconTiming()])
    for beat in range(40):
        Talk(sport=40000 + beat, remote="203.0.113.9").open().reset().play(judge, FREE, START + 60 * beat)
    late = START + 60 * 40
    assert judge.packet(syn("203.0.113.9"), late, FREE, OUT).verdict.reason is Reason.DESTINATION
    assert judge.packet(syn("64:ff9b::cb00:7109"), late, FREE, OUT).verdict.reason is Reason.DESTINATION
    assert judge.packet(syn("64:ff9b::cb00:710a"), late, FREE, OUT).verdict.reason is Reason.DEFAULT


def test_a_person_is_asked_about_an_address_inside_by_its_address() -> None:
    gate = Keeper(engine(allow("mirror", NAME)))
    resolve(gate.engine, ASKER, NAME, (NAME, "10.1.2.3"))
    assert gate.packet(syn("10.1.2.3"), START + 1, ASKER).verdict.action is Action.HOLD
    (hold,) = gate.engine.holds.values()
    assert (hold.destination, hold.dst, hold.names) == ("10.1.2.3", "10.1.2.3", (NAME,))
    gate.change(START + 2, allow("other", "192.0.2.1"))
    assert list(gate.engine.holds) == [hold.id], "another rule does not end it"
    outcomes = gate.change(START + 3, allow("approved", hold.destination))
    assert [each.verdict.rule_id for each in outcomes] == ["approved"]


def test_metadata_is_not_asked_about() -> None:
    judge = engine()
    assert judge.packet(syn("169.254.169.254"), START, ASKER, OUT).verdict.reason is Reason.METADATA
    assert not judge.holds


def test_many_answers_make_few_findings() -> None:
    judge = engine(allow("mirror", NAME))
    made: list[FindingRecord] = []
    for number in range(40):
        ts = START + number * 100
        ask(judge, DENIED, question(NAME, ident=number), ts, 6000 + number)
        message = reply(NAME, (NAME, f"10.0.0.{number}"), ident=number)
        made += found(
            judge.packet(udp(RESOLVER4, AGENT4, 53, 6000 + number, message), ts, DENIED, Direction.IN).records
        )
    assert len(made) == 2, "one an hour"
