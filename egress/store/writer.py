"""Storing records: each kind into its table, so that storing the same record twice changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from operator import attrgetter

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from egress.model import AnomalyRecord, EvidenceRecord, FindingRecord, FlowRecord, ProcessRecord, Record, Step
from egress.store.tables import anomalies, evidence, findings, flows, processes

Insert = sqlite.Insert | postgresql.Insert
_INSERT: dict[str, Callable[[sa.Table], Insert]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def upsert(connection: Connection, table: sa.Table) -> Insert:
    """An INSERT that knows ON CONFLICT, in the connection's dialect."""
    return _INSERT[connection.dialect.name](table)


def _flow(statement: Insert) -> Insert:
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[flows.c.flow_id],
        set_={column.name: new[column.name] for column in flows.c if column.name != "flow_id"},
        where=new.updated >= flows.c.updated,  # of two equally late records the one journalled later wins
    )


def _anomaly(statement: Insert) -> Insert:
    before, new = anomalies.c.count, statement.excluded["count"]
    return statement.on_conflict_do_update(
        index_elements=list(anomalies.primary_key.columns),
        set_={"count": sa.case((new > before, new), else_=before)},
    )


def _once(statement: Insert) -> Insert:
    return statement.on_conflict_do_nothing()


_KINDS: tuple[tuple[type[Record], sa.Table, Callable[[Insert], Insert]], ...] = (
    (FlowRecord, flows, _flow),
    (FindingRecord, findings, _once),
    (AnomalyRecord, anomalies, _anomaly),
    (EvidenceRecord, evidence, _once),
    (ProcessRecord, processes, _once),
)


def store(connection: Connection, records: Iterable[Record]) -> None:
    """Write records, in their order, within the connection's transaction.

    A flow keeps its latest record (by `updated`), an anomaly its highest count; findings, their evidence
    and processes are never replaced.
    """
    kinds: dict[type, list[Record]] = {}
    for record in records:
        kinds.setdefault(type(record), []).append(record)
    for kind, table, kept in _KINDS:
        if kind in kinds:
            connection.execute(kept(upsert(connection, table)), rows(kinds[kind]))


def rows(records: Sequence[Record | Step]) -> list[dict[str, object]]:
    """Dataclasses of one kind as rows, field for column."""
    names = [field.name for field in fields(records[0])]
    values = attrgetter(*names)
    return [dict(zip(names, values(record), strict=True)) for record in records]
