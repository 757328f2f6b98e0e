"""Storing records: each kind into its table, so that storing the same record twice changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from operator import attrgetter

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.engine import Connection

from egress.model import AnomalyRecord, FindingRecord, FlowRecord, Record, RuleChange
from egress.store.tables import anomalies, findings, flows, rule_changes


def _upsert_flow() -> Insert:
    statement = insert(flows)
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[flows.c.flow_id],
        set_={column.name: new[column.name] for column in flows.c if column.name != "flow_id"},
        where=new.updated >= flows.c.updated,  # of two equally late records the one journalled later wins
    )


def _upsert_anomaly() -> Insert:
    statement = insert(anomalies)
    return statement.on_conflict_do_update(
        index_elements=list(anomalies.primary_key.columns),
        set_={"count": sa.func.max(anomalies.c.count, statement.excluded["count"])},
    )


_STATEMENTS: tuple[tuple[type[Record], Insert], ...] = (
    (FlowRecord, _upsert_flow()),
    (FindingRecord, insert(findings).on_conflict_do_nothing()),
    (AnomalyRecord, _upsert_anomaly()),
    (RuleChange, insert(rule_changes).on_conflict_do_nothing()),
)


def store(connection: Connection, records: Iterable[Record]) -> None:
    """Write records, in their order, within the connection's transaction.

    A flow keeps its latest record (by `updated`), an anomaly its highest count; findings and rule changes are
    never replaced.
    """
    kinds: dict[type, list[Record]] = {}
    for record in records:
        kinds.setdefault(type(record), []).append(record)
    for kind, statement in _STATEMENTS:
        if kind in kinds:
            connection.execute(statement, rows(kinds[kind]))


def rows(records: Sequence[Record]) -> list[dict[str, object]]:
    """Dataclasses of one kind as rows, field for column."""
    names = [field.name for field in fields(records[0])]
    values = attrgetter(*names)
    return [dict(zip(names, values(record), strict=True)) for record in records]
