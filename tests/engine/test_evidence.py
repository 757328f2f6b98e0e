"""Evidence of an undecided flow: its first and last packets, within bounds, recorded with a finding."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from egress.engine.evidence import Evidence
from egress.limits import Limits
from egress.model import Direction
from tests.capture.test_evidence import FOUND

LIMITS = Limits(evidence_packets=8, evidence_bytes=400)
PACKETS = st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.integers(0, 2000)), max_size=40)


@given(PACKETS)
def test_it_is_bounded_and_has_both_ends(packets: list[tuple[bytes, int]]) -> None:
    evidence = Evidence(LIMITS)
    for number, (raw, more) in enumerate(packets):
        evidence.keep(raw, len(raw) + more, float(number), Direction.OUT)
    kept = evidence.record(FOUND).packets
    assert len(kept) <= 8
    assert sum(len(packet.data) for packet in kept) == evidence.size <= 400
    assert [packet.time for packet in kept] == sorted({packet.time for packet in kept})
    for packet in kept:
        raw, more = packets[int(packet.time)]
        assert raw.startswith(packet.data)
        assert packet.length == len(raw) + more
    if packets:
        assert kept[0].data == packets[0][0][:200]
        assert kept[-1].time == len(packets) - 1


def test_what_lies_between_is_given_up() -> None:
    evidence = Evidence(LIMITS)
    for number in range(1000):
        evidence.keep(bytes([number % 256]), 40, float(number), Direction.IN)
    record = evidence.record(replace(FOUND, time=9.0))
    assert [packet.time for packet in record.packets] == [0, 1, 2, 3, 996, 997, 998, 999]
    assert (record.finding_id, record.flow_id, record.agent, record.time) == (
        FOUND.finding_id,
        FOUND.flow_id,
        FOUND.agent,
        9.0,
    )
