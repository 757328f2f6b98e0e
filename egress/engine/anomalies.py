"""Folds refusals that belong to no flow: those of one agent for one reason become one record with a count."""

from __future__ import annotations

from dataclasses import replace

from egress.records.shape import AnomalyRecord

FOLD = 1.0  # seconds
MAX_KINDS = 4096  # kinds remembered at a time; refusals of further kinds are folded into one of each reason
REST = "further kinds"


class Anomalies:
    """Counts refusals by kind (agent, reason, and a text of the caller) until `take`.

    Beyond `most` kinds, refusals are counted by reason alone, under no agent. `due` is the time at which to call
    `take`, FOLD seconds after the first refusal; infinity if nothing was counted.
    """

    def __init__(self, most: int = MAX_KINDS) -> None:
        self._most = most
        self._folded: dict[tuple[str, ...], tuple[AnomalyRecord, int]] = {}
        self.due = float("inf")

    def note(self, record: AnomalyRecord, kind: str = "") -> bool:
        """Count a refusal; return True for the first since `take` of its agent, reason and `kind`."""
        key: tuple[str, ...] = record.agent, record.reason, kind
        if key not in self._folded and len(self._folded) >= self._most:
            key, record = ("", record.reason, REST), AnomalyRecord("", record.time, record.reason, REST, 1)
        first, count = self._folded.get(key, (record, 0))
        self._folded[key] = first, count + 1
        self.due = min(self.due, record.time + FOLD)
        return not count

    def take(self) -> tuple[AnomalyRecord, ...]:
        """Empty the counts: return the first refusal of each kind, with the number of refusals of that kind."""
        folded, self._folded = self._folded, {}
        self.due = float("inf")
        return tuple(replace(first, count=count) for first, count in folded.values())
