"""The partitions of the record tables on PostgreSQL: one for each day (UTC), and one for the rest.

A day is given as the number of days since 1970-01-01.

The recorder creates the days in advance (egress.store.recording.maintenance); otherwise the first writer of a record
creates its day. Only days around the present are created, so that times from a broken clock or a hostile capture create
none. The rest takes all records without a day: those of such times, those of pruned days, and those that arrive while a
long read keeps their day from being created; they move to the day when it is created.
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
PAST, AHEAD = 7, 2  # days before and after today that may be created
PATIENCE = 0.2  # lock timeout in seconds for creating a day; after it the records go to the rest
MAKING = 0x6567_6461_7973  # "egdays": the advisory lock for creating and dropping days
_EPOCH = date(1970, 1, 1).toordinal()
_DAY_NAME = re.compile(r".+_d([0-9]{8})", re.ASCII)
_BUSY = ("55P03", "40P01")  # lock_not_available, deadlock_detected

_EXISTING = """
    SELECT part.relname FROM pg_inherits
    JOIN pg_class part ON part.oid = inhrelid JOIN pg_class whole ON whole.oid = inhparent
    WHERE whole.oid = to_regclass(:table) ORDER BY part.relname
"""
# Not by to_regclass, which may not see yet a table that another session has just created.
_MISSING = """
    SELECT name FROM unnest(CAST(:names AS text[])) AS each (name) WHERE NOT EXISTS (
        SELECT FROM pg_class WHERE relname = name AND relnamespace = to_regnamespace(quote_ident(current_schema()))
    )
"""


def name(table: str, day: int) -> str:
    """The name of a table's partition for a day."""
    return f"{table}_d{date.fromordinal(_EPOCH + day):%Y%m%d}"


def rest(table: str) -> str:
    """The name of a table's partition for the rest."""
    return f"{table}_rest"


def day_of(partition: str) -> int | None:
    """The day whose partition has this name; None if it is not the name of a day's partition."""
    found = _DAY_NAME.fullmatch(partition)
    return None if found is None else date.fromisoformat(found[1]).toordinal() - _EPOCH


def is_partition(table: str) -> bool:
    """True for the partition of a day or the rest, which a comparison of tables with the model must leave out."""
    return table in {rest(each.name) for each in DAYED} or day_of(table) is not None


def existing(connection: Connection, table: sa.Table) -> list[int]:
    """The days that have a partition, in order; none on SQLite."""
    if connection.dialect.name != "postgresql":
        return []
    found = connection.scalars(sa.text(_EXISTING), {"table": table.name})
    return [day for partition in found if (day := day_of(partition)) is not None]


def near(moments: Iterable[int], now: float) -> set[int]:
    """The days of these times (microseconds) from PAST days before to AHEAD days after `now` (seconds)."""
    today = int(now // 86400)
    return {day for day in {moment // DAY for moment in moments} if today - PAST <= day <= today + AHEAD}


def ensure(connection: Connection, table: sa.Table, days: Iterable[int], patience: float = PATIENCE) -> bool:
    """Create the partitions of these days that are missing, on PostgreSQL, in the caller's transaction.

    Returns False if another session held a lock for longer than `patience` seconds, so that one was not created; the
    transaction stays usable.
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


def freeze(connection: Connection, table: sa.Table) -> None:
    """Keep other sessions from creating days of a table until the end of the transaction.

    Otherwise PostgreSQL could choose the rest partition for a row, and then refuse the row because its day was created.
    """
    connection.exec_driver_sql(f"LOCK TABLE ONLY {table.name} IN SHARE UPDATE EXCLUSIVE MODE")


def drop(connection: Connection, table: sa.Table, day: int, living: float, patience: float) -> int:
    """Drop the partition of a day; returns the number of deleted rows, 0 if there is no such partition.

    Rows whose `updated` is `living` (seconds) or later are kept: they move to the rest partition. Raises DBAPIError
    (see `busy`) if readers use the table for longer than `patience` seconds.
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
    """True if the error means that another session kept a day from being created or dropped."""
    return getattr(error.orig, "sqlstate", None) in _BUSY


def _make(connection: Connection, table: sa.Table, day: int, patience: float) -> None:
    partition = name(table.name, day)
    _alone(connection, patience)
    if _missing(connection, partition):  # another session may have created it meanwhile
        for statement in _statements(table.name, DAYED[table].name, partition, day):
            connection.exec_driver_sql(statement)
    connection.exec_driver_sql("SET LOCAL lock_timeout TO DEFAULT")
    connection.exec_driver_sql("SET LOCAL statement_timeout TO DEFAULT")


def _statements(table: str, column: str, partition: str, day: int) -> Iterator[str]:
    """The SQL that creates the partition of a day: a table that is filled from the rest, then attached.

    CREATE … PARTITION OF would wait for readers.
    """
    first, last = day * DAY, (day + 1) * DAY
    yield f"LOCK TABLE {rest(table)} IN ACCESS EXCLUSIVE MODE"
    yield f"CREATE TABLE {partition} (LIKE {table} INCLUDING ALL)"
    gone = f"DELETE FROM {rest(table)} WHERE {column} >= {first} AND {column} < {last} RETURNING *"  # noqa: S608
    yield f"WITH gone AS ({gone}) INSERT INTO {partition} SELECT * FROM gone"  # noqa: S608 - our own names
    yield f"ALTER TABLE {table} ATTACH PARTITION {partition} FOR VALUES FROM ({first}) TO ({last})"


def _alone(connection: Connection, patience: float) -> None:
    """Keep other sessions from creating or dropping days until the end of the transaction.

    Waits at most `patience` seconds for them. Statements have no time limit after that: if moving the rows of a whole
    day were stopped, every batch would begin it again, and no batch would be stored.
    """
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{round(patience * 1000)}ms'")
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MAKING)))


def _missing(connection: Connection, partition: str) -> bool:
    return bool(connection.scalars(sa.text(_MISSING), {"names": [partition]}).all())
