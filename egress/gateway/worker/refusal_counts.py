"""Counts of refusals and findings per agent, for the one-line summary of `egress run`. Bounded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from egress.model import Action
from egress.records.shape import AnomalyRecord, FindingRecord, FlowRecord, FoldedKind, FoldedRecord, Record

MAX_REMEMBERED = 4096  # refused flows whose ids are kept, to count each once; a later one may be counted twice
MAX_NAMED = 16  # destinations, and signatures, that are counted; further ones are left out


@dataclass(slots=True)
class RefusalCounts:
    """Counts for one agent. `refused`: flows; `packets`: refused packets without a flow.

    `findings`: by signature; `destinations`: refused flows by `address:port/protocol`; at most MAX_NAMED of each.
    """

    refused: int = 0
    packets: int = 0
    monitored: int = 0  # of the flows: passed, but only because of monitor mode
    findings: Counter[str] = field(default_factory=Counter)
    destinations: Counter[str] = field(default_factory=Counter)
    _seen: set[str] = field(default_factory=set)

    def add(self, record: Record) -> None:
        """Count one record of this agent."""
        if isinstance(record, FlowRecord):
            self._flow(record)
        elif isinstance(record, FindingRecord):
            _count(self.findings, record.signature, 1)
        elif isinstance(record, AnomalyRecord):
            self.packets += record.count
        elif isinstance(record, FoldedRecord):
            self._folded(record)

    def as_json(self) -> dict[str, object]:
        """Return the counts in JSON types, for the summary of `egress run`."""
        return {
            "refused": self.refused,
            "packets": self.packets,
            "monitored": self.monitored,
            "findings": dict(self.findings),
            "destinations": dict(self.destinations),
        }

    def _folded(self, record: FoldedRecord) -> None:
        if record.kind is FoldedKind.ALERT:
            _count(self.findings, record.signature, record.count)
        elif record.kind is FoldedKind.ANOMALY:
            self.packets += record.count
        elif record.action not in (Action.ACCEPT, Action.HOLD):
            self.refused += record.count
            _count(self.destinations, _place(record.dst or "*", record.dport, record.proto), record.count)

    def _flow(self, record: FlowRecord) -> None:
        if record.action in (Action.ACCEPT, Action.HOLD) or record.flow_id in self._seen:
            return
        if len(self._seen) < MAX_REMEMBERED:
            self._seen.add(record.flow_id)
        elif record.end is not None:
            return
        self.refused += 1
        self.monitored += record.mode == "monitor"
        _count(self.destinations, _place(record.dst, record.dport, record.proto), 1)


def _place(dst: str, dport: int, proto: str) -> str:
    return f"[{dst}]:{dport}/{proto}" if ":" in dst else f"{dst}:{dport}/{proto}"


def _count(counter: Counter[str], key: str, number: int) -> None:
    if key in counter or len(counter) < MAX_NAMED:
        counter[key] += number
