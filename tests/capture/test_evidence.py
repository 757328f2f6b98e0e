"""Evidence files, opened by tshark's kin: scapy's reader and our own."""

from __future__ import annotations

import io
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import RawPcapNgReader

from egress.capture import frames
from egress.capture.evidence import to_pcapng
from egress.model import Action, Direction, Effect, EvidencePacket, EvidenceRecord, FindingRecord, Mode, Severity

FOUND = FindingRecord(
    finding_id="0123456789abcdef", flow_id="fedcba9876543210", agent="rome-7", time=1_700_000_000.5,
    signature="mining.stratum", severity=Severity.HIGH, technique="T1496.001", summary="a login to a mining pool",
    evidence=b'{"method":"login"}', effect=Effect.FLOW, action=Action.REJECT, mode=Mode.ENFORCE, proto="tcp",
    src="10.0.0.2", sport=40000, dst="192.0.2.7", dport=443, community_id="1:x", rule_id="", policy_version=1,
)  # fmt: skip


def record(*packets: EvidencePacket) -> EvidenceRecord:
    return EvidenceRecord(FOUND.finding_id, FOUND.flow_id, FOUND.agent, FOUND.time, packets)


def test_the_finding_and_its_bytes_are_named(tmp_path: Path) -> None:
    packets = [
        EvidencePacket(1_700_000_000.25, Direction.OUT, 60, b"E" + bytes(39)),
        EvidencePacket(1_700_000_000.5, Direction.OUT, 90, b"E" + bytes(39) + FOUND.evidence + b"\n"),
        EvidencePacket(1_700_000_000.75, Direction.IN, 1500, b"E" + bytes(59)),
    ]
    data = to_pcapng(FOUND, record(*packets))
    read = list(frames(io.BytesIO(data)))
    assert [(frame.ts, frame.data, frame.wire_length) for frame in read] == [
        (packet.time, packet.data, packet.length) for packet in packets
    ]
    assert data.count(b"mining.stratum: bytes 40 to 57") == 1
    assert b"finding 0123456789abcdef: mining.stratum (high, T1496.001)\na login to a mining pool\n" in data
    path = tmp_path / "evidence.pcapng"
    path.write_bytes(data)
    with RawPcapNgReader(str(path)) as reader:
        assert [raw for raw, _ in reader] == [packet.data for packet in packets]


PACKETS = st.builds(
    EvidencePacket,
    st.floats(0, 4_000_000_000).map(lambda ts: round(ts * 1e6) / 1e6),
    st.sampled_from(Direction),
    st.integers(0, 0xFFFFFFFF),
    st.binary(min_size=1, max_size=120),
)


@given(st.lists(PACKETS, max_size=5))
def test_whatever_was_captured_comes_back(packets: list[EvidencePacket]) -> None:
    read = list(frames(io.BytesIO(to_pcapng(FOUND, record(*packets)))))
    assert [frame.data for frame in read] == [packet.data for packet in packets]
