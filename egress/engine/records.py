"""Makes records of flows and findings: text addresses, Community IDs, stable ids."""

from __future__ import annotations

import hashlib
from ipaddress import ip_address

from egress.engine.flow import Flow
from egress.model import ICMP, ICMPV6, Action, Finding, Reason, protocol_name
from egress.records.shape import RECORD_NAMES, FindingRecord, FlowRecord
from egress.wire.community import community_id


def endpoints(flow: Flow) -> tuple[str, int, str, int, str]:
    """Return (source, source port, destination, destination port, Community ID) with the opener as source."""
    near, far = (flow.local, flow.lport), (flow.remote, flow.rport)
    (src, sport), (dst, dport) = (near, far) if flow.outbound else (far, near)
    ports = (flow.icmp >> 8, flow.icmp & 0xFF) if flow.proto in (ICMP, ICMPV6) else (sport, dport)
    identity = community_id(flow.proto, src, dst, *ports)
    return str(ip_address(src)), sport, str(ip_address(dst)), dport, identity


def flow_record(flow: Flow, ts: float, ended: str = "") -> FlowRecord:
    """Make the record of a flow as it stands at `ts`; `ended` is why it ended: closed, timeout, evicted or shutdown."""
    src, sport, dst, dport, identity = endpoints(flow)
    unseen = flow.unseen + (sum(stream.unseen for stream in flow.streams) if flow.streams else 0)
    return FlowRecord(
        flow_id=flow.id,
        agent=flow.agent,
        start=flow.start,
        updated=ts,
        end=flow.last if ended else None,
        state=ended or flow.state,
        direction="out" if flow.outbound else "in",
        proto=protocol_name(flow.proto),
        src=src,
        sport=sport,
        dst=dst,
        dport=dport,
        community_id=identity,
        app_proto=str(flow.app),
        server_name=flow.server_name,
        action=flow.verdict.action,
        reason=flow.verdict.reason,
        rule_id=flow.verdict.rule_id,
        policy_version=flow.verdict.policy_version,
        mode=flow.who.mode,
        packets_out=flow.packets_out,
        packets_in=flow.packets_in,
        bytes_out=flow.bytes_out,
        bytes_in=flow.bytes_in,
        unseen_bytes=unseen,
        names=tuple(sorted(flow.names)[:RECORD_NAMES]) if flow.names else (),
        app_expected=",".join(sorted(flow.demanded)) if flow.verdict.reason is Reason.APPLICATION else "",
    )


def finding_record(flow: Flow, finding: Finding, ts: float, action: Action) -> FindingRecord:
    """Make the record of a finding on a flow; `action` is the resulting decision: ACCEPT if nothing is refused."""
    src, sport, dst, dport, identity = endpoints(flow)
    text = f"{flow.id}|{finding.signature}|{ts:.6f}"
    return FindingRecord(
        finding_id=hashlib.blake2b(text.encode(), digest_size=8).hexdigest(),
        flow_id=flow.id,
        agent=flow.agent,
        time=ts,
        signature=finding.signature,
        severity=finding.severity,
        technique=finding.technique,
        summary=finding.summary,
        evidence=finding.evidence,
        effect=finding.effect,
        action=action,
        mode=flow.who.mode,
        proto=protocol_name(flow.proto),
        src=src,
        sport=sport,
        dst=dst,
        dport=dport,
        community_id=identity,
        rule_id=flow.verdict.rule_id,
        policy_version=flow.verdict.policy_version,
    )
