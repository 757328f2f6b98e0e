"""Refusals that belong to no flow, folded: the first of a kind at once, its repetitions once a second as a count."""

from __future__ import annotations

from egress.model import Reason
from egress.records.shape import AnomalyRecord

FOLD = 1.0  # seconds
MAX_KINDS = 4096  # (agent, reason) pairs remembered at a time


class Anomalies:
    """Bounded by agents times reasons."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, Reason], list[AnomalyRecord | int]] = {}
        self.due = float("inf")  # when `flush` has something to say

    def note(self, record: AnomalyRecord) -> tuple[AnomalyRecord, ...]:
        """Book one; returned if it is the first of its kind in this second."""
        kind = (record.agent, record.reason)
        entry = self._open.get(kind)
        if entry is not None:
            assert isinstance(entry[1], int)
            entry[1] += 1
            return ()
        if len(self._open) < MAX_KINDS:
            self._open[kind] = [record, 0]
            self.due = min(self.due, record.time + FOLD)
        return (record,)

    def flush(self, ts: float) -> tuple[AnomalyRecord, ...]:
        """The repetitions counted so far; called at `due` and at the end."""
        if ts < self.due:
            return ()
        out = []
        for first, count in self._open.values():
            if count:
                assert isinstance(first, AnomalyRecord) and isinstance(count, int)
                out.append(
                    AnomalyRecord(first.agent, ts, first.reason, first.detail, count, first.src, first.dst, first.proto)
                )
        self._open.clear()
        self.due = float("inf")
        return tuple(out)
