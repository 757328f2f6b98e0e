"""Refusals that are no flow's verdict: malformed and spoofed packets, no room, no order, no recorder. All counted."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address

from egress.engine.anomalies import Anomalies
from egress.engine.outcome import Outcome
from egress.model import Action, Agent, Mode, Packet, Reason, Verdict, protocol_name
from egress.records.shape import AnomalyRecord, Record
from egress.wire.packet import addresses

# These refuse a connection, visibly; every other reason is about one packet, which is dropped and marks nothing.
CONNECTION_REASONS = frozenset((Reason.MEMCAP, Reason.RECORDER, Reason.MIDSTREAM))


class Refusals:
    """Makes outcomes and their folded records; `counts` by reason."""

    def __init__(self) -> None:
        self.anomalies = Anomalies()
        self.counts: Counter[str] = Counter()

    def packet(
        self, agent: Agent, packet: Packet, ts: float, reason: Reason, detail: str, records: tuple[Record, ...]
    ) -> Outcome:
        """Refuse a packet that decodes; `records` are what its coming has caused besides."""
        ends = str(ip_address(packet.src)), str(ip_address(packet.dst)), protocol_name(packet.proto)
        return self._outcome(agent, AnomalyRecord(agent.name, ts, reason, detail, 1, *ends), records)

    def malformed(self, agent: Agent, raw: bytes, ts: float, detail: str) -> Outcome:
        """Refuse bytes that are no packet."""
        _, src, dst, proto = addresses(raw)
        ends = str(ip_address(src)) if src else "", str(ip_address(dst)) if dst else ""
        name = protocol_name(proto) if dst else ""
        return self._outcome(agent, AnomalyRecord(agent.name, ts, Reason.MALFORMED, detail, 1, *ends, name), ())

    def _outcome(self, agent: Agent, anomaly: AnomalyRecord, records: tuple[Record, ...]) -> Outcome:
        self.counts[anomaly.reason.value] += 1
        whole = anomaly.reason in CONNECTION_REASONS
        action = Action.REJECT if whole else Action.DROP
        if agent.mode is Mode.MONITOR and not agent.quarantined:
            action = Action.ACCEPT
        verdict = Verdict(action, anomaly.reason, packet_only=not whole)
        return Outcome(verdict, (*records, *self.anomalies.note(anomaly)))
