"""Refusals of single packets, apart from any flow's verdict: all are counted, equal ones recorded as one anomaly.

Such packets are malformed, spoofed, truncated or out of sequence, or would begin a flow when there is no room
for it or records cannot be written. Packets of a monitored agent pass all the same, unless it is quarantined. Bytes
that pass without dissection are recorded in the same way, and are not refused.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from egress.engine.anomalies import Anomalies
from egress.engine.flow import Flow
from egress.engine.outbox import Outbox
from egress.model import Action, Agent, Mode, Packet, Reason, Verdict, protocol_name
from egress.records.shape import AnomalyRecord
from egress.wire.ip import addresses

# These refuse a connection, visibly; every other reason is about one packet, which is dropped and marks nothing.
CONNECTION_REASONS = frozenset((Reason.MEMCAP, Reason.RECORDER, Reason.MIDSTREAM))


class Refusals:
    """Refuses single packets; records the first refusal of a kind at once, and its repetitions by their number."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._anomalies = Anomalies()
        self._unread = Anomalies()  # of bytes that passed without dissection, by flow

    def refuse(self, agent: Agent, packet: Packet, ts: float, reason: Reason, detail: str) -> Verdict:
        """Refuse a packet that decodes: record it, and return its verdict (ACCEPT for a monitored agent)."""
        ends = str(ip_address(packet.src)), str(ip_address(packet.dst)), protocol_name(packet.proto)
        return self._verdict(agent, AnomalyRecord(agent.name, ts, reason, detail, 1, *ends))

    def malformed(self, agent: Agent, raw: bytes, ts: float, detail: str) -> Verdict:
        """Refuse, in the same way, bytes that do not decode as a packet or are a fragment."""
        _, src, dst, proto = addresses(raw)
        ends = str(ip_address(src)) if src else "", str(ip_address(dst)) if dst else ""
        name = protocol_name(proto) if dst else ""
        return self._verdict(agent, AnomalyRecord(agent.name, ts, Reason.MALFORMED, detail, 1, *ends, name))

    def unread(self, flow: Flow, size: int, ts: float) -> None:
        """Count and record, without refusing anything, that `size` bytes carried inside a flow were not dissected."""
        flow.miss(size)
        ends = str(ip_address(flow.local)), str(ip_address(flow.remote)), protocol_name(flow.proto)
        detail = f"passed: bytes carried inside flow {flow.id} are beyond the bounds of dissection"
        anomaly = AnomalyRecord(flow.agent, ts, Reason.TRUNCATED, detail, 1, *ends)
        self._outbox.counts["unread"] += 1
        if self._unread.note(anomaly, flow.id):
            self._outbox.anomaly(anomaly, Action.ACCEPT, ts)

    def next_tick(self) -> float:
        """Return the time at which `tick` has something to report; infinity if there is nothing."""
        return min(self._anomalies.due, self._unread.due)

    def tick(self, ts: float) -> None:
        """Report the repetitions counted so far, once they are due."""
        for anomalies in (self._anomalies, self._unread):
            for folded in anomalies.take() if ts >= anomalies.due else ():
                if folded.count > 1:  # the first was reported at once
                    action = Action.ACCEPT if anomalies is self._unread else _action(folded.reason)
                    self._outbox.anomaly(replace(folded, time=ts, count=folded.count - 1), action, ts)

    def _verdict(self, agent: Agent, anomaly: AnomalyRecord) -> Verdict:
        """Count and record a refusal, and return its verdict: ACCEPT for an agent that is only monitored."""
        self._outbox.counts[anomaly.reason.value] += 1
        action = _action(anomaly.reason)
        if self._anomalies.note(anomaly):
            self._outbox.anomaly(anomaly, action, anomaly.time)
        if agent.mode is Mode.MONITOR and not agent.quarantined:
            action = Action.ACCEPT
        return Verdict(action, anomaly.reason, packet_only=anomaly.reason not in CONNECTION_REASONS)


def _action(reason: Reason) -> Action:
    """Return REJECT for a reason that refuses a connection, DROP for one about a single packet."""
    return Action.REJECT if reason in CONNECTION_REASONS else Action.DROP
