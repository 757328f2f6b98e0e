"""evasion.tcp-overlap: the same TCP sequence numbers were sent twice with different bytes.

A receiver keeps one of the two versions, which one depends on its system; an inspector that keeps the other one has
seen a decoy (Ptacek and Newsham, "Insertion, Evasion, and Denial of Service", 1998; RFC 9293 section
3.10.7.4 knows only repetition). One differing byte is enough. `egress.dissection.stream` leaves out keep-alive probes,
whose one octet may be garbage (RFC 9293 section 3.8.4).

ATT&CK has no technique for it; T1001 (Data Obfuscation) is nearest: traffic that reads differently to an observer.

Falsely found: a middlebox that rewrites retransmissions, or bit errors that TCP's checksum let pass. Evaded by:
contradicting bytes that the engine no longer keeps, as in a settled flow.
"""

from __future__ import annotations

from egress.dissection.events import Event, Inconsistent
from egress.engine.signature import FlowView, Signature, endpoint, printable
from egress.model import EVIDENCE_BYTES, Direction, Finding, Severity

QUOTE = 32  # bytes of each version in the summary


class EvasionOverlap(Signature):
    """Finds TCP bytes that were sent twice and differ (see the module's docstring)."""

    id = "evasion.tcp-overlap"
    severity = Severity.HIGH
    technique = "T1001"  # Data Obfuscation
    listens = (Inconsistent,)

    def see(self, event: Event, flow: FlowView) -> Finding | None:
        if not isinstance(event, Inconsistent):
            return None
        remote = endpoint(flow.remote, flow.rport)
        who = f"The agent sent {remote}" if event.direction is Direction.OUT else f"{remote} sent the agent"
        summary = (
            f"{who} two versions of the same TCP bytes (sequence number {event.seq}: first"
            f" '{printable(event.before, QUOTE)}', then '{printable(event.after, QUOTE)}'): a way to show an inspector"
            " other bytes than the receiver gets."
        )
        half = (EVIDENCE_BYTES - len(b" | ")) // 2
        evidence = event.before[:half] + b" | " + event.after[:half]
        return Finding(self.id, self.severity, summary, evidence, self.technique)
