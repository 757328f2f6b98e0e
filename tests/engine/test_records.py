"""Records name the opener as source, on either side of the agent."""

from __future__ import annotations

from egress.engine.flow import Flow
from egress.engine.records import endpoints, finding_record, flow_record
from egress.model import ICMP, TCP, Action, Direction, Finding, Severity
from egress.records.shape import RECORD_NAMES
from egress.wire.community import community_id
from egress.wire.packet import decode
from tests.traffic import AGENT4, SERVER4, START, agent, echo, tcp

PACKET = decode(tcp(AGENT4, SERVER4, 40000, 443, 2, 1, 0))
KEY = (TCP, PACKET.src, 40000, PACKET.dst, 443)


def test_the_opener_is_the_source() -> None:
    out, back = (Flow(agent(), KEY, PACKET, START, Direction.OUT) for _ in range(2))
    back.outbound = False
    assert endpoints(out)[:4] == (AGENT4, 40000, SERVER4, 443)
    assert endpoints(back)[:4] == (SERVER4, 443, AGENT4, 40000)
    assert endpoints(out)[4] == endpoints(back)[4]


def test_icmp_is_identified_by_type_and_code() -> None:
    packet = decode(echo(AGENT4, SERVER4, 7, b""))
    flow = Flow(agent(), (ICMP, packet.src, 7, packet.dst, 0), packet, START, Direction.OUT)
    assert endpoints(flow)[4] == community_id(ICMP, packet.src, packet.dst, 8, 0)


def test_ids_are_stable_and_tell_flows_and_findings_apart() -> None:
    flow, later = (Flow(agent(), KEY, PACKET, ts, Direction.OUT) for ts in (START, START + 1))
    again = Flow(agent(), KEY, PACKET, START, Direction.OUT)
    assert flow.id == again.id != later.id and len(flow.id) == 16
    finding = Finding("a.b", Severity.LOW, "text", b"bytes", "T1")
    one = finding_record(flow, finding, START, Action.REJECT)
    assert one == finding_record(again, finding, START, Action.REJECT)
    assert one.finding_id != finding_record(flow, finding, START + 1, Action.REJECT).finding_id
    assert one.flow_id == flow_record(flow, START).flow_id


def test_the_names_of_the_address_are_in_order_and_few() -> None:
    flow = Flow(agent(), KEY, PACKET, START, Direction.OUT)
    assert flow_record(flow, START).names == ()
    flow.names = frozenset(f"n{number}.example.test" for number in range(RECORD_NAMES + 1))
    assert flow_record(flow, START).names == tuple(sorted(flow.names))[:RECORD_NAMES]
