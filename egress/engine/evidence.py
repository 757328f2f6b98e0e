"""Packets of an undecided flow that are kept in case it ends in a finding: the first ones and the last ones.

A finding may rest on the first bytes or on those that came just now, after thousands of others; the packets between
are dropped. Half of the packets and bytes (`Limits.evidence_packets`, `evidence_bytes`) are for each end.
"""

from __future__ import annotations

from collections import deque
from itertools import chain

from egress.limits import Limits
from egress.model import Direction
from egress.records.shape import EvidencePacket, EvidenceRecord, FindingRecord

Kept = tuple[float, bytes, int, Direction]  # time, IP packet, its length on the wire, direction


class Evidence:
    """The kept packets of one flow; `size` is the number of bytes held."""

    __slots__ = ("_bytes", "_first", "_head", "_last", "_packets", "_tail", "size")

    def __init__(self, limits: Limits) -> None:
        self._packets, self._bytes = limits.evidence_packets // 2, limits.evidence_bytes // 2
        self._first: list[Kept] = []
        self._last: deque[Kept] = deque()
        self._head = self._tail = self.size = 0

    def keep(self, raw: bytes, length: int, ts: float, direction: Direction) -> None:
        """Keep a packet, perhaps in place of an older one. `raw` has the first of its `length` bytes on the wire."""
        if not self._last and len(self._first) < self._packets and self._head < self._bytes:
            raw = raw[: self._bytes - self._head]
            self._first.append((ts, raw, length, direction))
            self._head += len(raw)
        else:
            raw = raw[: self._bytes]
            self._last.append((ts, raw, length, direction))
            self._tail += len(raw)
            while self._tail > self._bytes or len(self._last) > self._packets:
                self._tail -= len(self._last.popleft()[1])
        self.size = self._head + self._tail

    def record(self, finding: FindingRecord) -> EvidenceRecord:
        """Make the record of the kept packets for a finding, in the order of their arrival."""
        packets = tuple(
            EvidencePacket(ts, direction, max(length, len(raw)), raw)
            for ts, raw, length, direction in chain(self._first, self._last)
        )
        return EvidenceRecord(finding.finding_id, finding.flow_id, finding.agent, finding.time, packets)
