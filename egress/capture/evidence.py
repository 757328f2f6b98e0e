"""Writes a finding's packets as a pcapng file whose comments name the finding and locate its bytes.

The bytes of some findings cannot be located: a beacon's timing is in no byte, QUIC's hello is encrypted, and packets
between the kept ones are gone. The comment then says so.
"""

from __future__ import annotations

from egress.capture import blocks, spans
from egress.capture.spans import PacketSpan
from egress.records.shape import EvidenceRecord, FindingRecord
from egress.records.times import iso, micros

SHOWN = 64  # bytes of the evidence in a comment


def to_pcapng(finding: FindingRecord, evidence: EvidenceRecord) -> bytes:
    """Return the bytes of the file. The comment of its section names the finding, those of packets locate its bytes."""
    found = spans.find(evidence.packets, finding.evidence)
    parts = [blocks.header(_about(finding, found))]
    for number, packet in enumerate(evidence.packets):
        said = [_words(finding, span) for span in found if span.packet == number]
        comment = f"{finding.signature}: {', '.join(said)}" if said else ""
        parts.append(blocks.packet(packet.data, packet.length, micros(packet.time), packet.direction, comment))
    return b"".join(parts)


def _words(finding: FindingRecord, span: PacketSpan) -> str:
    """Write the place of a finding's bytes in a packet, and which of them they are if others are elsewhere."""
    place, size = f"bytes {span.first} to {span.last}", len(finding.evidence)
    return place if span.end - span.begin + 1 == size else f"{place} ({span.begin} to {span.end} of the {size} found)"


def _about(finding: FindingRecord, found: list[PacketSpan]) -> str:
    """Write the comment of the section: the finding, its agent and flow, its time, and its first bytes."""
    shown, more = finding.evidence[:SHOWN], len(finding.evidence) - SHOWN
    where = "" if found or not finding.evidence else "\nthese bytes are not in the packets below as they are"
    return "\n".join(
        (
            f"finding {finding.finding_id}: {finding.signature} ({finding.severity}, {finding.technique})",
            finding.summary,
            f"agent {finding.agent}, flow {finding.flow_id}, {finding.community_id}",
            f"{iso(finding.time)}: {finding.action}",
            f"evidence: {shown.hex(' ')}" + (f" and {more} bytes more" if more > 0 else "") + where,
        )
    )
