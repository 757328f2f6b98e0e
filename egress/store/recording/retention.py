"""Retention: prunes (deletes) records that are too old, and evidence that is too large, in small transactions.

On PostgreSQL a whole day partition is dropped at once; single rows are deleted at most ROWS at a time. The age of a
flow is that of its latest record. A live flow without a new record for that long is pruned too, and stored again with
its next record. Audit entries, policies, rules, agents, approvals and tokens stay.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from egress.config import Retention
from egress.records.times import micros
from egress.store.database import days
from egress.store.database.database import storing
from egress.store.database.rows import decode
from egress.store.database.tables import DAYED, evidence, flows, pruned, steps
from egress.store.recording.evidence import oversize
from egress.store.recording.writer import upsert

RECORDS: dict[sa.Table, sa.Column[float]] = {**DAYED, steps: steps.c.start}  # table → the time that decides
ROWS = 1000  # deleted in one transaction, which takes some tens of milliseconds
PATIENCE = 1.0  # lock timeout in seconds for dropping a day partition; readers that come meanwhile wait as long
DAY = 86400.0

Cuts = Mapping[sa.Table, float]  # older records (seconds since the epoch) are pruned


@dataclass(frozen=True, slots=True)
class PruneStep:
    """The result of one transaction of pruning."""

    table: str
    count: int  # rows deleted
    busy: str = ""  # the partition that could not be dropped because it is being read


@dataclass(frozen=True, slots=True)
class Pruned:
    """The total of the rows ever pruned from a table."""

    table: str
    count: int  # rows
    before: float  # seconds: the latest limit; older records were pruned
    time: float  # of the last deletion


def cuts(connection: Connection, kept: Retention, now: float) -> Cuts:
    """The times (seconds) before which records are pruned, by table, as the settings `kept` and `now` give them.

    They are starts of days (UTC); for evidence a size limit counts as well. A table that is kept for ever is left out.
    """
    records = _whole_days(now, kept.days)
    found = dict.fromkeys(RECORDS, records) if kept.days else {}
    size = oversize(connection, kept.evidence_bytes) if kept.evidence_bytes else 0.0
    packets = max(records, _whole_days(now, kept.evidence_days), size)
    return found | ({evidence: packets} if packets else {})


def older(before: float) -> Cuts:
    """The limits with which `prune` deletes the records of all tables from before a time (seconds)."""
    return dict.fromkeys(RECORDS, before)


def count(connection: Connection, wanted: Cuts) -> dict[str, int]:
    """The number of rows of each table that `prune` would delete."""
    counted = {}
    for table, before in wanted.items():
        query = sa.select(sa.func.count()).select_from(table).where(*_old(table, before))
        counted[table.name] = connection.scalar(query) or 0
    return counted


def behind(connection: Connection, kept: Retention, now: float) -> bool:
    """True if some flow is two days past its retention: pruning does not run, or fails."""
    before = _whole_days(now, kept.days) - 2 * DAY
    late = sa.select(sa.literal(1)).where(*_old(flows, before)).limit(1)
    return bool(kept.days and connection.scalar(late))


def prune(engine: Engine, wanted: Cuts, patience: float = PATIENCE) -> Iterator[PruneStep]:
    """Prune records older than the limits. Yields after each transaction; the caller may stop there.

    `patience`: seconds to wait for readers of a day partition. If they read on, the step says so (`busy`), and the rest
    of that table is left for another time. Raises DBAPIError.
    """
    for table, before in wanted.items():
        if (yield from _days(engine, table, before, patience)):
            yield from _rows(engine, table, before)


def gone(connection: Connection) -> dict[str, Pruned]:
    """The total of the pruned rows of each table, by its name; a table without any is left out."""
    query = sa.select(pruned.c.records, pruned.c.count, pruned.c.before, pruned.c.time)
    return {each.table: each for each in decode(Pruned, connection.execute(query))}


def _whole_days(now: float, kept: int) -> float:
    return (now - kept * DAY) // DAY * DAY if kept else 0.0


def _old(table: sa.Table, before: float) -> list[sa.ColumnElement[bool]]:
    late = [table.c.updated < before] if "updated" in table.c else []
    return [RECORDS[table] < before, *late]


def _days(engine: Engine, table: sa.Table, before: float, patience: float) -> Generator[PruneStep, None, bool]:
    """Drop whole days, yielding after each. Returns False if one is being read, else True."""
    with engine.connect() as connection:
        there = days.existing(connection, table)
    for day in there:
        if (day + 1) * DAY > before:
            break
        try:
            with storing(engine) as connection:
                number = days.drop(connection, table, day, before, patience)
                _note(connection, table, number, before)
        except DBAPIError as error:
            if not days.busy(error):
                raise
            yield PruneStep(table.name, 0, days.name(table.name, day))
            return False
        yield PruneStep(table.name, number)
    return True


def _rows(engine: Engine, table: sa.Table, before: float) -> Iterator[PruneStep]:
    key = list(table.primary_key)
    chosen = sa.select(*key).where(*_old(table, before)).order_by(RECORDS[table]).limit(ROWS)
    number = ROWS
    while number == ROWS:
        with storing(engine) as connection:
            # The condition again: PostgreSQL chooses rows, then waits for a writer, which may have updated a flow.
            gone = sa.delete(table).where(sa.tuple_(*key).in_(chosen), *_old(table, before))
            number = connection.execute(gone).rowcount
            _note(connection, table, number, before)
        yield PruneStep(table.name, number)


def _note(connection: Connection, table: sa.Table, number: int, before: float) -> None:
    if not number:
        return
    statement = upsert(connection, pruned)
    new = statement.excluded
    latest = sa.case((new.before > pruned.c.before, new.before), else_=pruned.c.before)
    values = {"count": pruned.c.count + new["count"], "before": latest, "time": new.time}
    row = {"records": table.name, "count": number, "before": micros(before) / 1e6, "time": time.time()}
    connection.execute(statement.on_conflict_do_update(index_elements=[pruned.c.records], set_=values), row)
