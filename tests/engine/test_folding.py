"""The quota of records: beyond it everything is counted, a flood costs a bounded number of records, nothing is lost."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egress.engine.engine import Engine
from egress.engine.folding import DAY, DESTINATIONS, KINDS, MINUTE, PROTOCOLS
from egress.errors import InputError
from egress.limits import Limits
from egress.model import Action, Direction, Mode, Policy, Reason, Rule
from egress.records.eve import line
from egress.records.shape import (
    AnomalyRecord,
    EvidenceRecord,
    FindingRecord,
    FlowRecord,
    FoldedKind,
    FoldedRecord,
    Record,
)
from signatures import load
from tests.examples import examples
from tests.traffic import AGENT4, START, Talk, agent, tcp, udp

OUT = Direction.OUT
LOGIN = b'{"id":1,"jsonrpc":"2.0","method":"login","params":{"login":"4x","pass":"x","agent":"XMRig/6.21"}}\n'


def bounded(records: int = 100, a_day: int = 0, **more: int) -> Engine:
    limits = Limits(records_agent=records, records_agent_day=a_day, **more)
    return Engine(limits, Policy(1, (Rule("no", Action.REJECT, destination="203.0.113.99"),)), load())


def flood(
    engine: Engine, count: int, name: str = "a1", ts: float = START, hosts: int = 1, port: int = 7000
) -> list[Record]:
    """Datagrams that each begin a flow, to `hosts` addresses in turn, within a second."""
    records: list[Record] = []
    for number in range(count):
        target = str(ip_address("198.51.100.1") + number % hosts)
        packet = udp(AGENT4, target, 1024 + number, port, b"x")
        records += engine.packet(packet, ts + number / count, agent(name=name), OUT).records
    return records


def ended(engine: Engine, ts: float = START + 10) -> list[Record]:
    return list(engine.shutdown(ts))


def folded(records: list[Record]) -> list[FoldedRecord]:
    return [record for record in records if isinstance(record, FoldedRecord)]


def flows(records: list[Record]) -> list[FlowRecord]:
    return [record for record in records if isinstance(record, FlowRecord)]


def test_within_the_quota_every_flow_has_its_records() -> None:
    engine = bounded(records=100)
    records = flood(engine, 50) + ended(engine)
    assert len(flows(records)) == 100 and not folded(records) and engine.folded() == {}


def test_beyond_the_quota_flows_are_counted_and_none_is_lost() -> None:
    engine = bounded(records=100)
    records = flood(engine, 1000) + ended(engine)
    own = {record.flow_id for record in flows(records)}
    (counted,) = folded(records)
    assert len(own) == 51, "fifty, and one as an example of the kind"
    assert len(own) + counted.count == 1000
    assert {record.flow_id for record in flows(records) if record.end is not None} == own
    size = len(udp(AGENT4, "198.51.100.1", 1, 7000, b"x"))
    assert (counted.packets, counted.bytes_out, counted.bytes_in) == (949, 949 * size, 0)
    where = (counted.agent, counted.kind, counted.proto, counted.dst, counted.dport, counted.action)
    assert where == ("a1", FoldedKind.FLOW, "udp", "198.51.100.1", 7000, Action.ACCEPT)


@pytest.mark.slow
def test_a_flood_of_25_000_flows_costs_bounded_bytes() -> None:
    engine = bounded(records=1000)
    records = flood(engine, 25_000, hosts=20_000) + ended(engine)
    own = {record.flow_id for record in flows(records)}
    alone = sum(record.count for record in records if isinstance(record, AnomalyRecord))  # no room for the flow
    assert len(own) + alone + sum(each.count for each in folded(records)) == 25_000
    assert len(folded(records)) <= DESTINATIONS + PROTOCOLS + 1
    assert sum(len(line(record)) for record in records) < 1_100 * 800


@pytest.mark.slow
def test_by_the_defaults_too() -> None:
    defaults = Limits()
    assert (defaults.records_agent, defaults.records_agent_day) == (10_000, 250_000)
    engine = Engine(defaults, Policy(), [])
    records = flood(engine, 25_000) + ended(engine)
    assert sum(len(line(record)) for record in records) < 9_000_000


def test_another_agent_has_a_quota_of_its_own() -> None:
    engine = bounded(records=100)
    flood(engine, 1000)
    assert len(flows(flood(engine, 50, name="a2"))) == 50
    assert set(engine.folded()) == {"a1"}


def test_tokens_come_back_over_the_day_and_counts_are_written_each_minute() -> None:
    engine = bounded(records=100, a_day=86_400)
    flood(engine, 1000)
    assert engine.next_tick() <= START + 1 + MINUTE
    (counted,) = folded(list(engine.tick(START + 1 + MINUTE)))
    assert counted.time == START + 1 + MINUTE and counted.start < START + 1
    later = START + 2 + MINUTE
    assert len(flows(flood(engine, 20, ts=later, port=7001))) == 20, "a token a second"
    assert folded(ended(engine, later + 5))


def test_an_agent_that_kept_quiet_for_a_day_is_forgotten() -> None:
    engine = bounded(records=100, a_day=100)
    flood(engine, 1000)
    engine.tick(START + DAY)
    assert engine.folded() == {"a1": 949} or engine.folded() == {}
    flood(engine, 60, ts=START + 3 * DAY)
    engine.tick(START + 5 * DAY)
    assert engine.folded() == {}


def test_no_quota_folds_nothing() -> None:
    engine = bounded(records=0)
    assert len(flows(flood(engine, 500))) == 500


def test_the_first_of_each_decision_has_its_own_record_in_each_minute() -> None:
    engine = bounded(records=10)
    flood(engine, 100)
    refused = [
        record
        for port in range(3)
        for record in engine.packet(udp(AGENT4, "203.0.113.99", 5000 + port, 53, b"x"), START + 2, agent(), OUT).records
    ]
    assert [(each.action, each.rule_id) for each in flows(refused)] == [(Action.REJECT, "no")]
    engine.tick(START + 2 + MINUTE)
    again = engine.packet(udp(AGENT4, "203.0.113.99", 5005, 53, b"x"), START + 3 + MINUTE, agent(), OUT).records
    assert len(again) == 1


def test_a_flow_with_records_of_its_own_is_recorded_when_it_is_refused() -> None:
    engine = bounded(records=4)
    talk = Talk(dport=3333).open().client(LOGIN)
    played = talk.play(engine, agent())
    records = list(played.records)
    assert [record.action for record in flows(records)][-1] is Action.REJECT
    assert [type(record) for record in records].count(FindingRecord) == 1


def test_findings_beyond_the_quota_are_counted_by_signature_and_the_first_is_recorded() -> None:
    engine = bounded(records=4)
    records: list[Record] = []
    for number in range(20):
        talk = Talk(sport=41000 + number, dport=3333).open().client(LOGIN)
        records += talk.play(engine, agent(), START + number / 10).records
    records += ended(engine)
    found = [record for record in records if isinstance(record, FindingRecord)]
    counted = sum(each.count for each in folded(records) if each.kind is FoldedKind.ALERT)
    assert 1 <= len(found) < 20 and len(found) + counted == 20
    assert {each.signature for each in folded(records) if each.kind is FoldedKind.ALERT} == {"mining.stratum"}
    named = {record.flow_id for record in flows(records)}
    assert {each.flow_id for each in found} <= named, "a finding has its flow"


def test_evidence_takes_tokens_by_its_size() -> None:
    def kept(records: int) -> int:
        engine = bounded(records=records)
        talk = Talk(dport=3333).open().client(b" " * 3000 + LOGIN)
        return sum(isinstance(record, EvidenceRecord) for record in talk.play(engine, agent()).records)

    assert (kept(50), kept(5)) == (1, 0)


def test_refused_packets_are_counted_beyond_the_quota() -> None:
    engine = bounded(records=10)
    who = agent()
    records: list[Record] = []
    for number in range(500):
        source = str(ip_address("192.0.2.1") + number % 200)
        records += engine.packet(
            tcp(source, "198.51.100.1", 1, number + 1, 2, 1, 0), START + number / 500, who, OUT
        ).records
        records += engine.packet(b"\x45" + bytes(number % 19), START + number / 500, who, OUT).records
    records += engine.tick(START + 2)
    records += ended(engine)
    own = [record for record in records if isinstance(record, AnomalyRecord)]
    counted = Counter[Reason]()
    for each in folded(records):
        counted[each.reason] += each.count
    for record in own:
        counted[record.reason] += record.count
    assert len(own) <= 13
    assert counted == {Reason.SPOOFED: 500, Reason.MALFORMED: 500}


def test_what_the_worker_refused_itself_is_within_the_quota_too() -> None:
    engine = bounded(records=5)
    refused = [AnomalyRecord("a1", START, Reason.ERROR, f"bug {number}", 1) for number in range(50)]
    records = [*engine.note(refused, START), *ended(engine)]
    assert sum(isinstance(record, AnomalyRecord) for record in records) == 6
    assert sum(each.count for each in folded(records)) == 44


def test_an_agent_that_is_gone_leaves_its_counts() -> None:
    engine = bounded(records=10)
    flood(engine, 100)
    records = list(engine.release("a1", START + 3))
    while engine.next_tick() < START + 3:
        records += engine.tick(START + 3)
    records += ended(engine)
    assert sum(each.count for each in folded(records)) == 94
    assert sum(each.packets for each in folded(records)) == 94


def test_a_clock_that_was_set_back_does_not_hold_the_counts() -> None:
    engine = bounded(records=10)
    flood(engine, 100)
    flood(engine, 10, ts=START - 10_000, port=7001)
    assert engine.next_tick() <= START - 10_000 + 2 * MINUTE


def test_negative_quotas_are_refused() -> None:
    with pytest.raises(InputError, match="records_agent"):
        Limits(records_agent=-1)


_hosts = st.integers(1, 200)


@settings(max_examples=examples(40), deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 255), st.integers(0, 65535), _hosts, st.floats(0, 200), st.sampled_from(Mode)),
        max_size=150,
    ),
    st.integers(2, 60),
)
def test_whatever_comes_every_flow_is_recorded_or_counted(
    packets: list[tuple[int, int, int, float, Mode]], most: int
) -> None:
    from tests.traffic import ip_packet

    engine, records, ts, cap = bounded(records=most, a_day=1000), list[Record](), START, KINDS + DESTINATIONS
    for proto, port, host, gap, _ in packets:
        ts += gap / 10
        while engine.next_tick() <= ts:
            records += engine.tick(ts)
        payload = port.to_bytes(2) * 2 + b"\0\x0c\0\0\0\0\0\0"
        packet = ip_packet(AGENT4, f"198.51.100.{host}", proto, payload)
        records += engine.packet(packet, ts, agent(), OUT).records
    records += ended(engine, ts + 1)
    began = engine.stats().get("flows", 0)
    own = {record.flow_id for record in flows(records)}
    counted = sum(each.count for each in folded(records) if each.kind is FoldedKind.FLOW)
    assert own <= {record.flow_id for record in flows(records) if record.end is not None}
    assert len(own) + counted >= began
    minutes = 2 + (ts - START) / MINUTE
    assert len(folded(records)) <= minutes * (cap + PROTOCOLS)
