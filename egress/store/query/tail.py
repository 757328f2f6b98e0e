"""Follows the stored records: the newest ones, and from then on each record that is stored.

Records have no number that says in which order they were stored. So each poll reads the records of the last few seconds
again, and those that earlier polls did not see are new. A record that is stored although others, more than LOOKBACK
seconds later, were seen before (by a gateway that had lost the database, for example) is left out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from egress.records.shape import AnomalyRecord, FindingRecord, FlowRecord, FoldedRecord, ProcessRecord
from egress.store.database.rows import decode
from egress.store.database.tables import anomalies, findings, flows, folded, processes
from egress.store.query.processes import OF_FLOW
from egress.store.query.reader import Filter, conditions

LOOKBACK = 5.0  # seconds
MOST = 5000  # rows of a table in one poll; the next poll brings the rest
BATCH = 500

Observed = FlowRecord | FindingRecord | AnomalyRecord | ProcessRecord | FoldedRecord
_R = TypeVar("_R", FlowRecord, FindingRecord, AnomalyRecord, ProcessRecord, FoldedRecord)


@dataclass(slots=True)
class _Source(Generic[_R]):
    """Reads the records of one table that match a filter, and keeps the keys of those already seen."""

    table: sa.Table
    record: type[_R]
    time: sa.ColumnElement[float]
    identity: tuple[sa.ColumnElement[Any], ...]  # together with the time it identifies one state of a record
    terms: list[sa.ColumnElement[bool]]
    seen: dict[tuple[Any, ...], float] = field(default_factory=dict)  # identity → time, by time
    latest: float = 0.0

    def newest(self, connection: Connection, limit: int) -> list[tuple[float, _R]]:
        """Return the newest `limit` records that match, with their times."""
        query = sa.select(self.table).where(*self.terms).order_by(self.time.desc(), *self.identity).limit(limit)
        return [(_moment(record), record) for record in decode(self.record, connection.execute(query))]

    def begin(self, connection: Connection) -> None:
        """Mark the records that are stored now as seen."""
        # The records of a host whose clock is ahead must not hide those that are stored from now on.
        self.latest = min(connection.scalar(sa.select(sa.func.max(self.time))) or 0.0, time.time())
        for key in self._keys(connection, []):
            self.seen[key] = key[0]

    def later(self, connection: Connection) -> list[tuple[float, _R]]:
        """Return the records stored since the last call, at most MOST, with their times."""
        fresh = [key for key in self._keys(connection, self.terms) if key not in self.seen][:MOST]
        found: list[tuple[float, _R]] = []
        for at in range(0, len(fresh), BATCH):
            found += self._read(connection, set(fresh[at : at + BATCH]))
        self.seen.update((key, key[0]) for key in fresh)
        if fresh:
            self.latest = max(self.latest, min(fresh[-1][0], time.time()))
            self.seen = {key: moment for key, moment in self.seen.items() if moment >= self.latest - LOOKBACK}
        return found

    def _read(self, connection: Connection, keys: set[tuple[Any, ...]]) -> Iterator[tuple[float, _R]]:
        times, first = {key[0] for key in keys}, {key[1] for key in keys}
        query = sa.select(self.table).where(self.time.in_(times), self.identity[0].in_(first))
        names = [column.key for column in (self.time, *self.identity)]
        for record in decode(self.record, connection.execute(query)):
            if tuple(getattr(record, name or "") for name in names) in keys:
                yield _moment(record), record

    def _keys(self, connection: Connection, terms: list[sa.ColumnElement[bool]]) -> Iterator[tuple[Any, ...]]:
        query = sa.select(self.time, *self.identity).where(*terms, self.time >= max(0.0, self.latest - LOOKBACK))
        for row in connection.execute(query.order_by(self.time)):
            yield tuple(row)


class Tail:
    """Follows the flows and findings that match a filter and the processes of these flows.

    Without a filter it follows anomalies and folded records, too.

    A flow is reported again with each change of its stored record.
    """

    def __init__(self, engine: Engine, wanted: Filter) -> None:
        self._engine = engine
        unlimited = replace(wanted, limit=None)
        self._sources: list[_Source[Any]] = [
            _Source(flows, FlowRecord, flows.c.updated, (flows.c.flow_id,), conditions(flows, unlimited)),
            _Source(
                findings, FindingRecord, findings.c.time, (findings.c.finding_id,), conditions(findings, unlimited)
            ),
        ]
        opened = sa.exists().where(OF_FLOW, *conditions(flows, unlimited)).correlate(processes)
        terms: list[sa.ColumnElement[bool]] = [] if unlimited == Filter(now=wanted.now) else [opened]
        self._sources.append(_Source(processes, ProcessRecord, processes.c.time, (processes.c.flow_id,), terms))
        if unlimited == Filter(now=wanted.now):
            shapes: tuple[tuple[sa.Table, type[Any]], ...] = ((anomalies, AnomalyRecord), (folded, FoldedRecord))
            for table, shape in shapes:
                identity = tuple(column for column in table.primary_key if column is not table.c.time)
                self._sources.append(_Source(table, shape, table.c.time, identity, []))

    def newest(self, limit: int) -> list[Observed]:
        """The newest `limit` records, oldest first. Call it once, before `later`: that has the records stored since."""
        with self._engine.connect() as connection:
            for source in self._sources:
                source.begin(connection)
            found = [each for source in self._sources for each in source.newest(connection, limit)]
        return _in_order(found)[-limit:] if limit else []

    def later(self) -> list[Observed]:
        """The records stored since the last call of `newest` or `later`, oldest first; at most MOST of each kind."""
        with self._engine.connect() as connection:
            return _in_order([each for source in self._sources for each in source.later(connection)])


def _moment(record: Observed) -> float:
    return record.updated if isinstance(record, FlowRecord) else record.time


def _in_order(found: list[tuple[float, Observed]]) -> list[Observed]:
    return [record for _, record in sorted(found, key=lambda each: each[0])]
