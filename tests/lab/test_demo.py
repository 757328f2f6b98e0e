"""The demonstration, with its outcome checked outside and in the database."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from demo.scenes import Attempt, play
from demo.stage import CONTROL, POOL, SERVER, Stage
from egress.model import TCP, Action, Direction, Mode, Reason
from egress.records.shape import EvidenceRecord, FindingRecord, FlowRecord
from egress.wire.packet import decode
from tests.lab.gateway import Witness, evidence, findings, flows
from tests.lab.net import needs_root

pytestmark = [pytest.mark.lab, needs_root]

FAMILIES = (0, 1)


@dataclass(frozen=True)
class Played:
    """The results of a demonstration."""

    attempts: list[Attempt]
    code: int | None
    flows: list[FlowRecord]
    findings: list[FindingRecord]
    heard: str
    outside: list[bytes]
    evidence: dict[str, EvidenceRecord]

    def to(self, host: str, port: int) -> list[FlowRecord]:
        return [flow for flow in self.flows if (flow.dst, flow.dport) == (host, port)]

    def found(self, signature: str, host: str) -> list[FindingRecord]:
        return [each for each in self.findings if (each.signature, each.dst) == (signature, host)]

    def sent(self, host: str, port: int) -> dict[int, bytes]:
        """The payload of TCP connections to a server that reached it: source port -> bytes, in order of arrival."""
        wanted = ipaddress.ip_address(host).packed
        streams: dict[int, bytes] = {}
        for packet in map(decode, self.outside):
            if packet.proto == TCP and (packet.dst, packet.dport) == (wanted, port):
                streams[packet.sport] = streams.get(packet.sport, b"") + packet.payload
        return streams


@pytest.fixture(scope="module")
def played() -> Iterator[Played]:
    with Stage() as stage, Witness(stage) as witness:
        stage.attach("rome-7")
        stage.start("--workers", "1")
        attempts = list(play(stage))
        code = stage.stop()
        heard = (stage.directory / "pool.heard").read_text()
        yield Played(attempts, code, flows(stage), findings(stage), heard, witness.packets(), evidence(stage))


def test_the_packets_of_each_finding_are_kept(played: Played) -> None:
    """Evidence holds the first and last packets of a flow. The proof itself never left, so no other capture has it."""
    for found in played.findings:
        packets = played.evidence[found.finding_id].packets
        assert packets, found
        assert all(decode(packet.data, packet.length).proto == TCP for packet in packets)
        if found.signature == "ssh.unusual-port":
            assert any(found.evidence in packet.data for packet in packets)
        if found.signature == "mining.stratum":
            sent = b"".join(decode(packet.data).payload for packet in packets if packet.direction is Direction.OUT)
            assert found.evidence[-8:] in sent


def test_every_attempt_comes_out_as_it_must(played: Played) -> None:
    assert [attempt for attempt in played.attempts if not attempt.ok] == []
    assert len(played.attempts) == 14
    assert played.code == 0


def test_only_these_findings_and_each_names_agent_action_and_proof(played: Played) -> None:
    expected = {("ssh.unusual-port", host) for host in SERVER}
    expected |= {("mining.stratum", host) for host in POOL} | {("beacon.timing", host) for host in CONTROL}
    assert {(found.signature, found.dst) for found in played.findings} == expected
    assert {(f.agent, f.action, f.mode) for f in played.findings} == {("rome-7", Action.REJECT, Mode.ENFORCE)}
    assert all(found.summary and found.technique.startswith("T") for found in played.findings)
    by_id = {flow.flow_id: flow for flow in played.flows}
    assert all(by_id[found.flow_id].agent == "rome-7" for found in played.findings)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_evidence_is_what_was_said(played: Played, family: int) -> None:
    assert [found.evidence[:8] for found in played.found("ssh.unusual-port", SERVER[family])] == [b"SSH-2.0-"]
    mining = played.found("mining.stratum", POOL[family])
    assert len(mining) == 2
    assert all(b"mining.subscribe" in found.evidence and found.dport == 443 for found in mining)
    assert all(b"gaps=" in found.evidence for found in played.found("beacon.timing", CONTROL[family]))


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_that_mines_reached_the_pool(played: Played, family: int) -> None:
    assert played.heard == ""
    streams = played.sent(POOL[family], 443)
    assert len(streams) == 2  # both connections were opened, so the witness looked at the right place
    whole, split = sorted(streams.values(), key=len)
    assert whole == b""
    assert split.startswith(b'{"id": 0, "method": "mining') and b"}" not in split


@pytest.mark.parametrize("family", FAMILIES)
def test_ssh_said_nothing_through_the_refused_tunnel(played: Played, family: int) -> None:
    """The server's identification may have come back; the client's never left."""
    assert set(played.sent(SERVER[family], 443).values()) <= {b""}
    assert any(stream.startswith(b"SSH-2.0-") for stream in played.sent(SERVER[family], 22).values())


@pytest.mark.parametrize("family", FAMILIES)
def test_flows_end_with_their_counts(played: Played, family: int) -> None:
    assert [flow for flow in played.flows if flow.end is None] == []
    (page,) = played.to(SERVER[family], 80)
    assert (page.action, page.reason, page.rule_id, page.app_proto) == (Action.ACCEPT, Reason.RULE, "web", "http")
    assert page.bytes_in > 1 << 20
    assert page.packets_out > 4 and page.bytes_out > 4 * 40
    (shell,) = played.to(SERVER[family], 22)
    assert shell.action is Action.ACCEPT and shell.rule_id.startswith("ssh-out") and shell.app_proto == "ssh"
    (refused,) = played.to(SERVER[family], 9000)
    assert (refused.action, refused.reason) == (Action.REJECT, Reason.DEFAULT)
    assert (refused.packets_out, refused.bytes_out, refused.packets_in) == (1, (60, 80)[family], 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_after_the_beacon_its_destination_is_refused(played: Played, family: int) -> None:
    beats = sorted(played.to(CONTROL[family], 8080), key=lambda flow: flow.start)
    assert {flow.reason for flow in beats[:-2]} == {Reason.RULE}
    assert beats[-1].action is Action.REJECT
    assert beats[-1].reason in (Reason.FINDING, Reason.DESTINATION)
    assert any(flow.reason is Reason.FINDING for flow in beats[-2:])
