"""The output of the engine: the answer to each packet, and the records and counters of all its parts."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from egress.model import Verdict
from egress.records.shape import Record


class Outcome(NamedTuple):
    """The engine's answer to one packet, and the records that the packet caused."""

    verdict: Verdict
    records: tuple[Record, ...] = ()


class Outbox:
    """Collects the records of one call of the engine, in the order in which its parts write them.

    `counts` are the engine's counters since its start.
    """

    __slots__ = ("counts", "records")

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.counts: Counter[str] = Counter()

    def put(self, *records: Record) -> None:
        """Add records."""
        self.records += records

    def take(self) -> tuple[Record, ...]:
        """Empty the outbox, and return its records."""
        records, self.records = tuple(self.records), []
        return records
