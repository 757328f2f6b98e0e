"""Evidence files, read back by scapy, by tshark and by egress."""

from __future__ import annotations

import io
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.utils import RawPcapNgReader

from egress.capture import frames
from egress.capture.evidence import to_pcapng
from egress.capture.spans import find
from egress.model import Action, Direction, Effect, Mode, Severity
from egress.records.shape import EvidencePacket, EvidenceRecord, FindingRecord

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
def test_packets_are_read_back_as_they_were_captured(packets: list[EvidencePacket]) -> None:
    read = list(frames(io.BytesIO(to_pcapng(FOUND, record(*packets)))))
    assert [frame.data for frame in read] == [packet.data for packet in packets]


LOGIN = FOUND.evidence


def segment(data: bytes, sequence: int, *, six: bool = False, flags: str = "PA", back: bool = False) -> EvidencePacket:
    network = IPv6(src="2001:db8::2", dst="2001:db8::7") if six else IP(src="10.0.0.2", dst="192.0.2.7")
    raw = bytes(network / TCP(sport=40000, dport=443, seq=sequence % (1 << 32), flags=flags) / data)
    return EvidencePacket(1_700_000_000.0, Direction.IN if back else Direction.OUT, len(raw), raw)


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("start", [1000, (1 << 32) - 7], ids=["", "round the end of the sequence numbers"])
@given(data=st.data())
def test_bytes_split_over_segments_are_named_in_each(six: bool, start: int, data: st.DataObject) -> None:
    """The bytes at the named places are the evidence, for any segmentation, order and repetition."""
    stream = b"xx" + LOGIN + b"yy"
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), min_size=1, max_size=8)))
    parts = [(at, stream[at:end]) for at, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    parts += data.draw(st.lists(st.sampled_from(parts), max_size=2))
    sent = [segment(part, start + at, six=six) for at, part in data.draw(st.permutations(parts))]
    sent.insert(data.draw(st.integers(0, len(sent))), segment(LOGIN[:9], 77, six=six, back=True))
    found = find(sent, LOGIN)
    whole = [packet.data.find(LOGIN) for packet in sent if LOGIN in packet.data]
    if whole:
        assert [(span.first, span.begin, span.end) for span in found] == [(at, 0, len(LOGIN) - 1) for at in whole]
        return
    assert b"".join(sent[span.packet].data[span.first : span.last + 1] for span in found) == LOGIN
    assert [span.begin for span in found] == [0, *(span.end + 1 for span in found[:-1])]


def test_no_match_goes_over_a_gap_or_into_the_other_direction() -> None:
    half = len(LOGIN) // 2
    first, second = segment(LOGIN[:half], 1000), segment(LOGIN[half:], 1000 + half)
    assert find([first, segment(LOGIN[half:], 1001 + half)], LOGIN) == []
    assert find([first, segment(LOGIN[half:], 1000 + half, back=True)], LOGIN) == []
    assert len(find([first, second], LOGIN)) == 2
    assert find([first, second], b"") == []


def test_data_with_the_first_packet_and_a_capture_that_was_cut() -> None:
    half = len(LOGIN) // 2
    opening = segment(LOGIN[:half], 999, flags="S")
    rest = segment(LOGIN[half:] + b"cut off", 1000 + half)
    cut = replace(rest, data=rest.data[:-7])
    assert [span.end for span in find([opening, cut], LOGIN)] == [half - 1, len(LOGIN) - 1]


@given(st.lists(PACKETS, max_size=5), st.binary(max_size=4))
def test_hostile_packets_do_no_harm(packets: list[EvidencePacket], wanted: bytes) -> None:
    for span in find(packets, wanted):
        assert 0 <= span.first <= span.last < len(packets[span.packet].data)


def test_tshark_shows_each_comment(tmp_path: Path) -> None:
    """The file names the bytes and the packets of the finding, or reports that no packet has them."""
    half = len(LOGIN) // 2
    path = tmp_path / "split.pcapng"
    path.write_bytes(to_pcapng(FOUND, record(segment(LOGIN[:half], 1000), segment(LOGIN[half:], 1000 + half))))
    asked = ["tshark", "-r", str(path), "-T", "fields", "-e", "frame.comment", "-e", "_ws.malformed"]
    done = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60)
    size = len(LOGIN)
    assert done.stdout.splitlines() == [
        f"mining.stratum: bytes 40 to {39 + half} (0 to {half - 1} of the {size} found)\t",
        f"mining.stratum: bytes 40 to {39 + size - half} ({half} to {size - 1} of the {size} found)\t",
    ]
    assert b"are not in the packets below" in to_pcapng(FOUND, record(segment(b"else", 1)))
    assert b"are not in the packets below" not in path.read_bytes()
