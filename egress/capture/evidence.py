"""A finding's packets as a pcapng file that says, in its comments, what was found and where."""

from __future__ import annotations

from egress.capture import blocks
from egress.eve import iso, micros
from egress.model import EvidenceRecord, FindingRecord

SHOWN = 64  # of the evidence's bytes, in a comment


def to_pcapng(finding: FindingRecord, evidence: EvidenceRecord) -> bytes:
    """The file: its section's comment names the finding; the packets that hold its bytes say where."""
    parts = [blocks.header(_about(finding))]
    for packet in evidence.packets:
        at = packet.data.find(finding.evidence) if finding.evidence else -1
        comment = f"{finding.signature}: bytes {at} to {at + len(finding.evidence) - 1}" if at >= 0 else ""
        parts.append(blocks.packet(packet.data, packet.length, micros(packet.time), packet.direction, comment))
    return b"".join(parts)


def _about(finding: FindingRecord) -> str:
    shown, more = finding.evidence[:SHOWN], len(finding.evidence) - SHOWN
    return "\n".join(
        (
            f"finding {finding.finding_id}: {finding.signature} ({finding.severity}, {finding.technique})",
            finding.summary,
            f"agent {finding.agent}, flow {finding.flow_id}, {finding.community_id}",
            f"{iso(finding.time)}: {finding.action}",
            f"evidence: {shown.hex(' ')}" + (f" and {more} bytes more" if more > 0 else ""),
        )
    )
