"""Reads the packets stored as evidence of findings, adds up their size, and finds those beyond a size limit."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from egress.records.shape import EvidenceRecord, FindingRecord
from egress.store.database.rows import decode_first
from egress.store.database.tables import evidence, pruned

SIZE = sa.func.length(sa.type_coerce(evidence.c.packets, sa.LargeBinary))  # bytes
_COLUMNS = (evidence.c.finding_id, evidence.c.flow_id, evidence.c.agent, evidence.c.time, evidence.c.packets)
_MICROSECOND = 1e-6


def read(connection: Connection, finding_id: str) -> EvidenceRecord | None:
    """The evidence of exactly this finding; None if none was kept, or if it was pruned."""
    query = sa.select(*_COLUMNS).where(evidence.c.finding_id == finding_id)
    return decode_first(EvidenceRecord, connection.execute(query))


def was_pruned(connection: Connection, found: FindingRecord) -> bool:
    """True if evidence as old as this finding was pruned; the finding itself need not have had any."""
    before = connection.scalar(sa.select(pruned.c.before).where(pruned.c.records == evidence.name))
    return before is not None and found.time < before


def held(connection: Connection) -> int:
    """The total size in bytes of the packets of all findings."""
    return int(connection.scalar(sa.select(sa.func.coalesce(sa.func.sum(SIZE), 0))) or 0)


def oversize(connection: Connection, most: int) -> float:
    """The time (seconds) before which evidence must be pruned to leave at most `most` bytes; 0 if all of it fits.

    The newest evidence is kept.
    """
    total = sa.func.sum(SIZE).over(order_by=(evidence.c.time.desc(), evidence.c.finding_id))
    summed = sa.select(evidence.c.time, total.label("total")).subquery()
    newest = connection.scalar(sa.select(sa.func.max(summed.c.time)).where(summed.c.total > most))
    return 0.0 if newest is None else newest + _MICROSECOND
