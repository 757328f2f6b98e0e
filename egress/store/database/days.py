"""The days of the record tables on PostgreSQL: a partition for each (UTC), and one for the rest.

A day is made by whoever first has something for it, and ahead of time by the recorder
(egress.store.recording.maintenance). Only days around the present are made, so that times from a broken clock or a
hostile capture make none. The rest takes what no day is for: those times, records of days that are gone, and what
comes while a day cannot be made because somebody has been reading for long. It gives the rows back once the day is
made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import date

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from egress.store.database.tables import DAYED

DAY = 86_400_000_000  # microseconds
PAST, AHEAD = 7, 2  # days before and after today that are made on demand
PATIENCE = 0.2  # seconds to wait for readers, before the rest takes the records
MAKING = 0x6567_6461_7973  # "egdays": the advisory lock of those that make and drop days
_EPOCH = date(1970, 1, 1).toordinal()
_DAY_NAME = re.compile(r".+_d([0-9]{8})", re.ASCII)
_BUSY = ("55P03", "40P01")  # the lock was not to be had; it would have been a deadlock

_EXISTING = """
    SELECT part.relname FROM pg_inherits
    JOIN pg_class part ON part.oid = inhrelid JOIN pg_class whole ON whole.oid = inhparent
    WHERE whole.oid = to_regclass(:table) ORDER BY part.relname
"""
# Not by to_regclass: what another session has made meanwhile it may not know yet.
_MISSING = """
    SELECT name FROM unnest(CAST(:names AS text[])) AS each (name) WHERE NOT EXISTS (
        SELECT FROM pg_class WHERE relname = name AND relnamespace = to_regnamespace(quote_ident(current_schema()))
    )
"""


def name(table: str, day: int) -> str:
    """The partition of a day, counted from 1970-01-01."""
    return f"{table}_d{date.fromordinal(_EPOCH + day):%Y%m%d}"


def rest(table: str) -> str:
    """The partition of what no day is for."""
    return f"{table}_rest"


def day_of(partition: str) -> int | None:
    """The day that a partition is for; None where it is for none."""
    found = _DAY_NAME.fullmatch(partition)
    return None if found is None else date.fromisoformat(found[1]).toordinal() - _EPOCH


def is_partition(table: str) -> bool:
    """Whether that is a day or the rest of a table: of no concern to those who compare tables with the model."""
    return table in {rest(each.name) for each in DAYED} or day_of(table) is not None


def existing(connection: Connection, table: sa.Table) -> list[int]:
    """The days that a table has, in order; on SQLite none."""
    if connection.dialect.name != "postgresql":
        return []
    found = connection.scalars(sa.text(_EXISTING), {"table": table.name})
    return [day for partition in found if (day := day_of(partition)) is not None]


def near(moments: Iterable[int], now: float) -> set[int]:
    """The days of these moments (microseconds) that may be made."""
    today = int(now // 86400)
    return {day for day in {moment // DAY for moment in moments} if today - PAST <= day <= today + AHEAD}


def ensure(connection: Connection, table: sa.Table, days: Iterable[int], patience: float = PATIENCE) -> bool:
    """Make those days of a table that are missing; False where somebody's reading kept one from being made.

    Within the caller's transaction, which can store its records whatever comes of it.
    """
    names = {name(table.name, day): day for day in sorted(days)}
    made = True
    missing = connection.scalars(sa.text(_MISSING), {"names": list(names)}).all() if names else ()
    for partition in missing:
        try:
            with connection.begin_nested():
                _make(connection, table, names[partition], patience)
        except DBAPIError as error:
            if not busy(error):
                raise
            made = False
    return made


def as_it_is(connection: Connection, table: sa.Table) -> None:
    """Have nobody make a day of this table until the end of the transaction, for rows that the rest shall take.

    Otherwise a day made just then would take them, which PostgreSQL notices when it has chosen the rest, and refuses.
    """
    connection.exec_driver_sql(f"LOCK TABLE ONLY {table.name} IN SHARE UPDATE EXCLUSIVE MODE")


def drop(connection: Connection, table: sa.Table, day: int, living: float, patience: float) -> int:
    """Take a day away; returns the number of rows gone. Rows `updated` at `living` (seconds) or later go to the rest.

    Raises DBAPIError where the table is being read for longer than the patience.
    """
    partition = name(table.name, day)
    _alone(connection, patience)
    if _missing(connection, partition):
        return 0
    part = sa.table(partition, *(sa.column(column.name, column.type) for column in table.columns))
    lives = part.c.updated >= living if "updated" in table.c else sa.false()
    gone = connection.scalar(sa.select(sa.func.count()).select_from(part).where(sa.not_(lives)))
    connection.exec_driver_sql(f"ALTER TABLE {table.name} DETACH PARTITION {partition}")
    connection.execute(table.insert().from_select(list(table.c.keys()), sa.select(*part.c).where(lives)))
    connection.exec_driver_sql(f"DROP TABLE {partition}")
    return gone or 0


def busy(error: DBAPIError) -> bool:
    """Whether somebody's reading kept a day from being made or dropped."""
    return getattr(error.orig, "sqlstate", None) in _BUSY


def _make(connection: Connection, table: sa.Table, day: int, patience: float) -> None:
    partition = name(table.name, day)
    _alone(connection, patience)
    if _missing(connection, partition):  # else somebody was first
        for statement in _statements(table.name, DAYED[table].name, partition, day):
            connection.exec_driver_sql(statement)
    connection.exec_driver_sql("SET LOCAL lock_timeout TO DEFAULT")
    connection.exec_driver_sql("SET LOCAL statement_timeout TO DEFAULT")


def _statements(table: str, column: str, partition: str, day: int) -> Iterator[str]:
    """Attached, rather than made as a partition at once, which would wait for everybody who reads the table at all."""
    first, last = day * DAY, (day + 1) * DAY
    yield f"LOCK TABLE {rest(table)} IN ACCESS EXCLUSIVE MODE"
    yield f"CREATE TABLE {partition} (LIKE {table} INCLUDING ALL)"
    gone = f"DELETE FROM {rest(table)} WHERE {column} >= {first} AND {column} < {last} RETURNING *"  # noqa: S608
    yield f"WITH gone AS ({gone}) INSERT INTO {partition} SELECT * FROM gone"  # noqa: S608 - our own names
    yield f"ALTER TABLE {table} ATTACH PARTITION {partition} FOR VALUES FROM ({first}) TO ({last})"


def _alone(connection: Connection, patience: float) -> None:
    """Have nobody else make or drop a day until the end of the transaction. What moves a whole one takes its time:
    stopped, it would be begun again by every batch, and no batch be stored.
    """
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{round(patience * 1000)}ms'")
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MAKING)))


def _missing(connection: Connection, partition: str) -> bool:
    return bool(connection.scalars(sa.text(_MISSING), {"names": [partition]}).all())
