"""Stores records, each kind in its table; storing the same record twice changes nothing.

Records are converted to rows, and of several rows with the same key only one is sent to the database, which compares it
with the stored row. SQLite takes the rows one by one, PostgreSQL by COPY into a temporary table, from which one
statement inserts them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from functools import cache
from operator import attrgetter, itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.exc import DBAPIError

from egress.model import Step
from egress.records.shape import (
    AnomalyRecord,
    EvidenceRecord,
    FindingRecord,
    FlowRecord,
    FoldedRecord,
    ProcessRecord,
    Record,
)
from egress.store.database import days
from egress.store.database.tables import DAYED, anomalies, evidence, findings, flows, folded, processes, seals
from egress.store.recording.storedseal import StoredSeal

Insert = sqlite.Insert | postgresql.Insert
_INSERT: dict[str, Callable[[sa.Table], Insert]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
Row = Record | StoredSeal
_Row = tuple[Any, ...]

# The table of a kind and the column that decides between records with the same key: the greatest value stays, of equal
# values the one stored later. Without a column the first record stays.
KINDS: dict[type[Row], tuple[sa.Table, str]] = {
    FlowRecord: (flows, "updated"),
    FindingRecord: (findings, ""),
    AnomalyRecord: (anomalies, "count"),
    EvidenceRecord: (evidence, ""),
    ProcessRecord: (processes, ""),
    FoldedRecord: (folded, ""),
    StoredSeal: (seals, ""),
}


def upsert(connection: Connection, table: sa.Table) -> Insert:
    """An INSERT in the connection's dialect, to which an ON CONFLICT clause can be added."""
    return _INSERT[connection.dialect.name](table)


def store(connection: Connection, records: Iterable[Row]) -> None:
    """Store records in the connection's transaction, which the caller commits. Raises DBAPIError.

    Of several records of a flow the latest (by `updated`) stays, of an anomaly the one with the highest count;
    findings, evidence, processes, folded records and seals are never replaced.
    """
    kinds: dict[type[Row], list[Row]] = {}
    for record in records:
        kinds.setdefault(type(record), []).append(record)
    batches = [(*KINDS[kind], _rows(kinds[kind], kind, connection.dialect)) for kind in KINDS if kind in kinds]
    if connection.dialect.name == "sqlite":
        for table, column, batch in batches:
            connection.exec_driver_sql(_statement(table, column), batch)
        return
    for table, _, batch in batches:  # first: creating a partition waits for others, so no rows may be locked yet
        when = itemgetter(list(table.c).index(DAYED[table]))
        if not days.ensure(connection, table, days.near(map(when, batch), time.time())):
            days.freeze(connection, table)
    for table, column, batch in batches:
        _copy(connection, table, batch)
        _insert_copied(connection, table, column)


def rows(records: Sequence[Record | Step]) -> list[dict[str, object]]:
    """Convert records of one kind (at least one) to rows: dictionaries from field name to value."""
    names = [field.name for field in fields(records[0])]
    values = attrgetter(*names)
    return [dict(zip(names, values(record), strict=True)) for record in records]


def _rows(records: Sequence[Row], kind: type[Row], dialect: Dialect) -> list[_Row]:
    """The records as rows of database values, one for each key."""
    table, column = KINDS[kind]
    values = attrgetter(*(field.name for field in fields(kind)))
    processors = [each.type.dialect_impl(dialect).bind_processor(dialect) for each in table.columns]
    names = table.c.keys()
    key = itemgetter(*(names.index(each.name) for each in table.primary_key))
    rank = names.index(column) if column else None
    chosen: dict[_Row, _Row] = {}
    for record in records:
        row = tuple(
            value if process is None else process(value)
            for process, value in zip(processors, values(record), strict=True)
        )
        before = chosen.get(key(row))
        if before is None or (rank is not None and row[rank] >= before[rank]):
            chosen[key(row)] = row
    return list(chosen.values())


def _counting(statement: Insert, table: sa.Table, column: str) -> Insert:
    """Add the ON CONFLICT clause: the row with the greatest `column` stays; without a column the stored row does."""
    if not column:
        return statement.on_conflict_do_nothing()
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=list(table.primary_key),
        set_={each.name: new[each.name] for each in table.c if not each.primary_key},
        where=new[column] >= table.c[column],
    )


# --- SQLite ------------------------------------------------------------------------------------------------


@cache
def _statement(table: sa.Table, column: str) -> str:
    """The SQL that inserts rows whose values are already those of the database."""
    statement = _counting(sqlite.insert(table), table, column)
    return str(statement.compile(dialect=sqlite.dialect(), column_keys=list(table.c.keys())))


# --- PostgreSQL --------------------------------------------------------------------------------------------


def _incoming(table: sa.Table) -> sa.TableClause:
    return sa.table(f"incoming_{table.name}", *(sa.column(each.name, each.type) for each in table.c), schema="pg_temp")


def _copy(connection: Connection, table: sa.Table, rows: Iterable[_Row]) -> None:
    from psycopg import Error  # not needed on SQLite

    quote = connection.dialect.identifier_preparer.quote
    name, names = f"pg_temp.incoming_{table.name}", ", ".join(map(quote, table.c.keys()))
    connection.exec_driver_sql(f"CREATE TEMPORARY TABLE IF NOT EXISTS {name} (LIKE {table.name}) ON COMMIT DELETE ROWS")
    driver: Any = connection.connection.driver_connection
    statement = f"COPY {name} ({names}) FROM STDIN"
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)
    except Error as error:  # as SQLAlchemy raises it elsewhere
        raise DBAPIError.instance(statement, None, error, Error) from error


def _insert_copied(connection: Connection, table: sa.Table, column: str) -> None:
    incoming = _incoming(table)
    statement = postgresql.insert(table).from_select(list(table.c.keys()), sa.select(*incoming.c))
    connection.execute(_counting(statement, table, column))
    connection.execute(sa.delete(incoming))  # the transaction may store more records
