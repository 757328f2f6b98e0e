"""Lists pages of records, newest first, and records since a time, for the API.

In each function `wanted` is the condition to match, `scope` has the globs of the agents that the caller may see, and
`limit` is the greatest number of records. The cursor `before` is None for the first page. Rows that egress does not
write raise DamagedDataError.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from egress.records.shape import AnomalyRecord, FindingRecord, FlowRecord
from egress.store.database.handles import Condition
from egress.store.database.matching import glob
from egress.store.database.rows import decode, decode_first
from egress.store.database.tables import anomalies, findings, flows

Scope = Sequence[str]  # globs of agents; with "*" all agents


def list_flows(
    connection: Connection, wanted: Condition, scope: Scope, before: tuple[float, str] | None, limit: int
) -> tuple[FlowRecord, ...]:
    """List flows, the latest start first, from the one after the cursor `before` (start, flow id) on."""
    terms = [wanted, visible(flows.c.agent, scope), *_after(flows.c.start, flows.c.flow_id, before)]
    query = sa.select(flows).where(*terms).order_by(flows.c.start.desc(), flows.c.flow_id.desc()).limit(limit)
    return tuple(decode(FlowRecord, connection.execute(query)))


def list_findings(
    connection: Connection, wanted: Condition, scope: Scope, before: tuple[float, str] | None, limit: int
) -> tuple[FindingRecord, ...]:
    """List findings, the latest first, from the one after the cursor `before` (time, finding id) on."""
    terms = [wanted, visible(findings.c.agent, scope), *_after(findings.c.time, findings.c.finding_id, before)]
    query = sa.select(findings).where(*terms).order_by(findings.c.time.desc(), findings.c.finding_id.desc())
    return tuple(decode(FindingRecord, connection.execute(query.limit(limit))))


def list_anomalies(
    connection: Connection, wanted: Condition, scope: Scope, before: tuple[float, tuple[str, ...]] | None, limit: int
) -> tuple[AnomalyRecord, ...]:
    """List anomalies (packets refused without a flow), the latest first, after the cursor `before` (time, anomaly key).

    With an empty key the anomalies of exactly this time are included.
    """
    terms = [wanted, visible(anomalies.c.agent, scope)]
    if before is not None:
        moment, key = before
        terms.append(anomalies.c.time <= moment)
        if key:
            terms.append(sa.or_(anomalies.c.time < moment, sa.tuple_(*_ANOMALY_KEY) > sa.tuple_(*key)))
    query = sa.select(anomalies).where(*terms).order_by(anomalies.c.time.desc(), *_ANOMALY_KEY).limit(limit)
    return tuple(decode(AnomalyRecord, connection.execute(query)))


def anomaly_key(record: AnomalyRecord) -> tuple[str, ...]:
    """The fields that identify an anomaly among those of the same time: the key of a cursor."""
    return record.agent, record.reason, record.detail, record.src, record.dst, record.proto


_ANOMALY_KEY = [
    sa.type_coerce(anomalies.c[name], sa.Text) for name in ("agent", "reason", "detail", "src", "dst", "proto")
]


def updated_flows(
    connection: Connection, wanted: Condition, scope: Scope, since: float, limit: int
) -> tuple[FlowRecord, ...]:
    """List the flows whose latest record was made at `since` (seconds) or later, the earliest record first."""
    terms = [wanted, visible(flows.c.agent, scope), flows.c.updated >= since]
    query = sa.select(flows).where(*terms).order_by(flows.c.updated, flows.c.flow_id).limit(limit)
    return tuple(decode(FlowRecord, connection.execute(query)))


def made_findings(
    connection: Connection, wanted: Condition, scope: Scope, since: float, limit: int
) -> tuple[FindingRecord, ...]:
    """List the findings made at `since` (seconds) or later, the earliest first."""
    terms = [wanted, visible(findings.c.agent, scope), findings.c.time >= since]
    query = sa.select(findings).where(*terms).order_by(findings.c.time, findings.c.finding_id).limit(limit)
    return tuple(decode(FindingRecord, connection.execute(query)))


def finding(connection: Connection, finding_id: str) -> FindingRecord | None:
    """The finding with exactly this id; None if it is not stored."""
    return decode_first(
        FindingRecord, connection.execute(sa.select(findings).where(findings.c.finding_id == finding_id))
    )


def visible(agent: sa.ColumnElement[str], scope: Scope) -> Condition:
    """The condition that the agent's name in a column matches a glob of the scope."""
    if "*" in scope:
        return sa.true()
    return sa.or_(sa.false(), *(glob(agent, pattern) for pattern in scope))


def _after(
    time: sa.ColumnElement[float], key: sa.ColumnElement[str], before: tuple[float, str] | None
) -> list[Condition]:
    if before is None:
        return []
    moment, last = before
    return [time <= moment, sa.or_(time < moment, key < last)]
