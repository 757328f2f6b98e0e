"""Records page by page, newest first, of the agents that somebody may see."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from egress.records.shape import AnomalyRecord, FindingRecord, FlowRecord
from egress.store.database.handles import Condition
from egress.store.database.matching import glob
from egress.store.database.tables import anomalies, findings, flows

Scope = Sequence[str]  # globs of agents; "*" among them: all


def list_flows(
    connection: Connection, wanted: Condition, scope: Scope, before: tuple[float, str] | None, limit: int
) -> tuple[FlowRecord, ...]:
    """Flows by start, those behind (start, flow id) `before`."""
    terms = [wanted, visible(flows.c.agent, scope), *_behind(flows.c.start, flows.c.flow_id, before)]
    query = sa.select(flows).where(*terms).order_by(flows.c.start.desc(), flows.c.flow_id.desc()).limit(limit)
    return tuple(FlowRecord(*row) for row in connection.execute(query))


def list_findings(
    connection: Connection, wanted: Condition, scope: Scope, before: tuple[float, str] | None, limit: int
) -> tuple[FindingRecord, ...]:
    """Findings by time, those behind (time, finding id) `before`."""
    terms = [wanted, visible(findings.c.agent, scope), *_behind(findings.c.time, findings.c.finding_id, before)]
    query = sa.select(findings).where(*terms).order_by(findings.c.time.desc(), findings.c.finding_id.desc())
    return tuple(FindingRecord(*row) for row in connection.execute(query.limit(limit)))


def list_anomalies(
    connection: Connection, wanted: Condition, scope: Scope, before: tuple[float, tuple[str, ...]] | None, limit: int
) -> tuple[AnomalyRecord, ...]:
    """Refusals without a flow by time, those behind (time, `anomaly_key`) `before`; an empty key: of that time on."""
    terms = [wanted, visible(anomalies.c.agent, scope)]
    if before is not None:
        moment, key = before
        terms.append(anomalies.c.time <= moment)
        if key:
            terms.append(sa.or_(anomalies.c.time < moment, sa.tuple_(*_ANOMALY_KEY) > sa.tuple_(*key)))
    query = sa.select(anomalies).where(*terms).order_by(anomalies.c.time.desc(), *_ANOMALY_KEY).limit(limit)
    return tuple(AnomalyRecord(*row) for row in connection.execute(query))


def anomaly_key(record: AnomalyRecord) -> tuple[str, ...]:
    """What tells it from others of the same time."""
    return record.agent, record.reason, record.detail, record.src, record.dst, record.proto


_ANOMALY_KEY = [
    sa.type_coerce(anomalies.c[name], sa.Text) for name in ("agent", "reason", "detail", "src", "dst", "proto")
]


def updated_flows(
    connection: Connection, wanted: Condition, scope: Scope, since: float, limit: int
) -> tuple[FlowRecord, ...]:
    """Flows whose latest record is of `since` or later, the earliest first."""
    terms = [wanted, visible(flows.c.agent, scope), flows.c.updated >= since]
    query = sa.select(flows).where(*terms).order_by(flows.c.updated, flows.c.flow_id).limit(limit)
    return tuple(FlowRecord(*row) for row in connection.execute(query))


def made_findings(
    connection: Connection, wanted: Condition, scope: Scope, since: float, limit: int
) -> tuple[FindingRecord, ...]:
    """Findings made at `since` or later, the earliest first."""
    terms = [wanted, visible(findings.c.agent, scope), findings.c.time >= since]
    query = sa.select(findings).where(*terms).order_by(findings.c.time, findings.c.finding_id).limit(limit)
    return tuple(FindingRecord(*row) for row in connection.execute(query))


def finding(connection: Connection, finding_id: str) -> FindingRecord | None:
    """The finding of exactly this id."""
    row = connection.execute(sa.select(findings).where(findings.c.finding_id == finding_id)).first()
    return None if row is None else FindingRecord(*row)


def visible(agent: sa.ColumnElement[str], scope: Scope) -> Condition:
    """Whether an agent is one of those a scope names."""
    if "*" in scope:
        return sa.true()
    return sa.or_(sa.false(), *(glob(agent, pattern) for pattern in scope))


def _behind(
    time: sa.ColumnElement[float], key: sa.ColumnElement[str], before: tuple[float, str] | None
) -> list[Condition]:
    if before is None:
        return []
    moment, last = before
    return [time <= moment, sa.or_(time < moment, key < last)]
