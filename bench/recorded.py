"""Copies of the journals, made before the recorder removes them, and the database's records, for comparison."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from egress.config import Config
from egress.records.read import parse_line
from egress.records.shape import AnomalyRecord, FlowRecord, ProcessRecord, Record, SealRecord
from egress.store.database import tables
from egress.store.database.database import open_database
from egress.store.query import reader
from egress.store.recording.segments import segments


@dataclass(slots=True)
class Stored:
    """The final state of records: the latest record of each flow by id, and all other records."""

    flows: dict[str, FlowRecord] = field(default_factory=dict)
    others: set[Record] = field(default_factory=set)

    def add(self, record: Record) -> None:
        """Add a record as the database stores it: a flow's latest record replaces the earlier ones."""
        if isinstance(record, FlowRecord):
            before = self.flows.get(record.flow_id)
            if before is None or record.updated >= before.updated:
                self.flows[record.flow_id] = record
        else:
            self.others.add(record)


class Archive:
    """Copies of all segments of the journals. Call `collect` often: the recorder removes segments that are stored."""

    def __init__(self, directory: Path) -> None:
        self.lines = 0
        self._directory = directory
        self._copies: dict[str, bytes] = {}

    def collect(self) -> None:
        """Copy the segments that are new or have grown."""
        for segment in segments(self._directory):
            if segment.size != len(self._copies.get(segment.name, b"")):
                try:
                    self._copies[segment.name] = segment.path.read_bytes()
                except FileNotFoundError:
                    continue

    def records(self) -> Stored:
        """Parse the whole lines of all copies, those of each writer in their order, and count them in `lines`."""
        folded = Stored()
        for name in sorted(self._copies, key=lambda name: int(name.rpartition("-")[2].partition(".")[0])):
            for line in self._copies[name].split(b"\n")[:-1]:
                record = parse_line(line)
                if not isinstance(record, SealRecord):
                    folded.add(record)
                self.lines += 1
        return folded


def stored(config: Config) -> Stored:
    """Read the records in the database, except evidence."""
    engine = open_database(config.database_url, create=False)
    held = Stored()
    for record in reader.flows(engine, reader.Filter()):
        held.add(record)
    held.others.update(reader.findings(engine, reader.Filter()))
    shapes: tuple[tuple[type[AnomalyRecord] | type[ProcessRecord], sa.Table], ...] = (
        (AnomalyRecord, tables.anomalies),
        (ProcessRecord, tables.processes),
    )
    with engine.connect() as connection:
        for shape, table in shapes:
            columns = [table.c[name] for name in shape.__slots__]
            held.others.update(shape(*row) for row in connection.execute(sa.select(*columns)))
    engine.dispose()
    return held
