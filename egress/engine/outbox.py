"""The records and counters of all parts of the engine, in the order in which they are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from egress.engine.evidence import Evidence
from egress.engine.flow import Flow
from egress.engine.folding import Folding
from egress.engine.records import finding_record, flow_record
from egress.limits import Limits
from egress.model import Action, Finding
from egress.records.shape import AnomalyRecord, Record


class Outbox:
    """Collects the records of one call of the engine, in the order in which its parts write them.

    Records of an agent that is over its quota are folded (`egress.engine.folding`). `counts` are the engine's counters
    since its start.
    """

    __slots__ = ("_folding", "counts", "records")

    def __init__(self, limits: Limits) -> None:
        self.records: list[Record] = []
        self.counts: Counter[str] = Counter()
        self._folding = Folding(limits)

    def flow(self, flow: Flow, ts: float, ended: str = "") -> None:
        """Write a flow as it stands now; `ended` is why it ended: closed, timeout, evicted or shutdown."""
        if self._folding.flow(flow, ts, ended):
            self.records.append(flow_record(flow, ts, ended))

    def finding(
        self, flow: Flow, finding: Finding, ts: float, action: Action, evidence: Evidence | None = None
    ) -> None:
        """Write a finding on a flow, and the packets kept for it; `action` is the decision."""
        self.counts["findings"] += 1
        if not self._folding.finding(flow, finding, action, ts):
            return
        record = finding_record(flow, finding, ts, action)
        self.records.append(record)
        if evidence is not None and self._folding.evidence(flow, evidence.size, ts):
            self.records.append(evidence.record(record))

    def anomaly(self, record: AnomalyRecord, action: Action, ts: float) -> None:
        """Write refused packets that belong to no flow; `action` is the answer to them."""
        if self._folding.anomaly(record, action, ts):
            self.records.append(record)

    def note(self, anomalies: Iterable[AnomalyRecord], ts: float) -> tuple[Record, ...]:
        """Return the records of packets that were dropped before they came to the engine, within their quotas."""
        for anomaly in anomalies:
            self.anomaly(anomaly, Action.DROP, ts)
        return self.take()

    def next_tick(self) -> float:
        """Return the time at which `tick` has folded records to write; infinity if nothing was folded."""
        return self._folding.due

    def tick(self, ts: float) -> None:
        """Write what was folded, once it is due."""
        if ts >= self._folding.due:
            self.records += self._folding.take(ts)

    def release(self, agent: str, ts: float) -> None:
        """Forget the quota of an agent that is gone, and write what was folded of it."""
        self.records += self._folding.release(agent, ts)

    def release_all(self, ts: float) -> None:
        """Write everything that was folded."""
        for agent in self._folding.agents():
            self.release(agent, ts)

    def folded(self) -> dict[str, int]:
        """Return the number of flows, findings and refused packets without records of their own, by agent."""
        return self._folding.status()

    def take(self) -> tuple[Record, ...]:
        """Empty the outbox, and return its records."""
        records, self.records = tuple(self.records), []
        return records
