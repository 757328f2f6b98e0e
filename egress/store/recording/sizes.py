"""Measures the database, and for each table of records its rows, day partitions, time range and pruned rows."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from egress.store.database import days
from egress.store.database.tables import flows
from egress.store.recording import evidence, retention
from egress.store.recording.retention import RECORDS, Pruned

_SIZES = {
    "sqlite": "SELECT page_count * page_size, freelist_count * page_size"
    " FROM pragma_page_count, pragma_page_size, pragma_freelist_count",
    "postgresql": "SELECT pg_database_size(current_database()), 0",
}
_PARTS = """
    SELECT relname, reltuples FROM pg_class WHERE relkind = 'r' AND oid IN (
        SELECT to_regclass(:table) UNION SELECT inhrelid FROM pg_inherits WHERE inhparent = to_regclass(:table)
    )
"""


@dataclass(frozen=True, slots=True)
class TableSize:
    """The size and the time range of a table of records."""

    table: str
    rows: int
    exact: bool  # False: `rows` is an estimate of PostgreSQL's last ANALYZE
    days: int  # day partitions, without the rest partition
    oldest: float | None  # seconds; None without rows
    newest: float | None
    pruned: Pruned | None  # None: nothing was pruned yet


@dataclass(frozen=True, slots=True)
class Holdings:
    """The size of the database and of its tables of records."""

    bytes: int  # of the database
    free: int  # reused by the next records; SQLite's file never shrinks by itself
    evidence_bytes: int
    records: tuple[TableSize, ...]


def holdings(connection: Connection) -> Holdings:
    """Measure the database and its tables of records. On SQLite every row is counted: seconds for tens of millions."""
    size, free = sizes(connection)
    gone = retention.gone(connection)
    return Holdings(size, free, evidence.held(connection), tuple(_held(connection, table, gone) for table in RECORDS))


def sizes(connection: Connection) -> tuple[int, int]:
    """The size of the database and the free part of it that new records can reuse, both in bytes."""
    size, free = connection.execute(sa.text(_SIZES[connection.dialect.name])).one()
    return int(size), int(free)


def oldest(connection: Connection) -> float | None:
    """The start of the oldest stored flow, seconds; None without flows."""
    found: float | None = connection.scalar(sa.select(sa.func.min(flows.c.start)))
    return found


def _held(connection: Connection, table: sa.Table, gone: dict[str, Pruned]) -> TableSize:
    rows, exact = _rows(connection, table)
    column = RECORDS[table]
    first, last = connection.scalar(sa.select(sa.func.min(column))), connection.scalar(sa.select(sa.func.max(column)))
    return TableSize(table.name, rows, exact, len(days.existing(connection, table)), first, last, gone.get(table.name))


def _rows(connection: Connection, table: sa.Table) -> tuple[int, bool]:
    if connection.dialect.name == "sqlite":
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0, True
    total, exact = 0, True
    for name, estimate in connection.execute(sa.text(_PARTS), {"table": table.name}).all():
        if estimate < 0:  # never analyzed, as a new day
            total += connection.scalar(sa.select(sa.func.count()).select_from(sa.table(name))) or 0
        else:
            total, exact = total + int(estimate), False
    return total, exact
