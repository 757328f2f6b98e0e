"""Packets the worker itself refused (no agent, a fault of ours), folded per agent, reason, detail and second."""

from __future__ import annotations

from egress.model import Reason
from egress.records.shape import AnomalyRecord

MAX_FOLDED = 256  # different ones a second; the rest is one entry
_REST = "further kinds"


class Anomalies:
    """Counts between two flushes."""

    def __init__(self) -> None:
        self._folded: dict[tuple[str, Reason, str], tuple[float, int]] = {}

    def add(self, agent: str, reason: Reason, detail: str, ts: float) -> None:
        key = agent, reason, detail
        if key not in self._folded and len(self._folded) >= MAX_FOLDED:
            key = "", reason, _REST
        first, count = self._folded.get(key, (ts, 0))
        self._folded[key] = first, count + 1

    def flush(self) -> tuple[AnomalyRecord, ...]:
        """What was counted since the last flush, as records."""
        folded, self._folded = self._folded, {}
        return tuple(
            AnomalyRecord(agent=agent, time=first, reason=reason, detail=detail, count=count)
            for (agent, reason, detail), (first, count) in folded.items()
        )
