"""Storing records: each kind into its table, so that storing the same record twice changes nothing.

Records become rows as the database has them, and of those with one key the one that counts is chosen, before the
database is asked; it then only compares with what it has. SQLite takes the rows one by one, PostgreSQL by COPY into a
table of the session's own, from which one statement takes them over.
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
from egress.records.shape import AnomalyRecord, EvidenceRecord, FindingRecord, FlowRecord, ProcessRecord, Record
from egress.store.database import days
from egress.store.database.tables import DAYED, anomalies, evidence, findings, flows, processes

Insert = sqlite.Insert | postgresql.Insert
_INSERT: dict[str, Callable[[sa.Table], Insert]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_Row = tuple[Any, ...]

# The table of a kind and, of records with one key, the column whose greatest value counts: of equals the one stored
# later. Without a column the first one stays.
_KINDS: dict[type[Record], tuple[sa.Table, str]] = {
    FlowRecord: (flows, "updated"),
    FindingRecord: (findings, ""),
    AnomalyRecord: (anomalies, "count"),
    EvidenceRecord: (evidence, ""),
    ProcessRecord: (processes, ""),
}


def upsert(connection: Connection, table: sa.Table) -> Insert:
    """An INSERT that knows ON CONFLICT, in the connection's dialect."""
    return _INSERT[connection.dialect.name](table)


def store(connection: Connection, records: Iterable[Record]) -> None:
    """Write records, in their order, within the connection's transaction.

    A flow keeps its latest record (by `updated`), an anomaly its highest count; findings, their evidence
    and processes are never replaced.
    """
    kinds: dict[type[Record], list[Record]] = {}
    for record in records:
        kinds.setdefault(type(record), []).append(record)
    batches = [(*_KINDS[kind], _rows(kinds[kind], kind, connection.dialect)) for kind in _KINDS if kind in kinds]
    if connection.dialect.name == "sqlite":
        for table, column, batch in batches:
            connection.exec_driver_sql(_statement(table, column), batch)
        return
    for table, _, batch in batches:  # all days first: whoever makes one waits for others, and should hold no rows then
        when = itemgetter(list(table.c).index(DAYED[table]))
        if not days.ensure(connection, table, days.near(map(when, batch), time.time())):
            days.as_it_is(connection, table)
    for table, column, batch in batches:
        _copy(connection, table, batch)
        _take_over(connection, table, column)


def rows(records: Sequence[Record | Step]) -> list[dict[str, object]]:
    """Dataclasses of one kind as rows, field for column."""
    names = [field.name for field in fields(records[0])]
    values = attrgetter(*names)
    return [dict(zip(names, values(record), strict=True)) for record in records]


def _rows(records: Sequence[Record], kind: type[Record], dialect: Dialect) -> list[_Row]:
    """As the database has them, one for each key."""
    table, column = _KINDS[kind]
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
    """What becomes of a row whose key is there already."""
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
    """Of rows as they are: the values need no conversion any more."""
    statement = _counting(sqlite.insert(table), table, column)
    return str(statement.compile(dialect=sqlite.dialect(), column_keys=list(table.c.keys())))


# --- PostgreSQL --------------------------------------------------------------------------------------------


def _incoming(table: sa.Table) -> sa.TableClause:
    return sa.table(f"incoming_{table.name}", *(sa.column(each.name, each.type) for each in table.c), schema="pg_temp")


def _copy(connection: Connection, table: sa.Table, rows: Iterable[_Row]) -> None:
    from psycopg import Error  # SQLite needs none

    quote = connection.dialect.identifier_preparer.quote
    name, names = f"pg_temp.incoming_{table.name}", ", ".join(map(quote, table.c.keys()))
    connection.exec_driver_sql(f"CREATE TEMPORARY TABLE IF NOT EXISTS {name} (LIKE {table.name}) ON COMMIT DELETE ROWS")
    driver: Any = connection.connection.driver_connection
    statement = f"COPY {name} ({names}) FROM STDIN"
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)
    except Error as error:  # as SQLAlchemy has it, for all who expect that
        raise DBAPIError.instance(statement, None, error, Error) from error


def _take_over(connection: Connection, table: sa.Table, column: str) -> None:
    incoming = _incoming(table)
    statement = postgresql.insert(table).from_select(list(table.c.keys()), sa.select(*incoming.c))
    connection.execute(_counting(statement, table, column))
    connection.execute(sa.delete(incoming))  # the same transaction may store more
