"""The packets that findings rest on: reading them, and keeping them within their budget."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from egress.model import EvidenceRecord
from egress.store.tables import evidence

SIZE = sa.func.length(sa.type_coerce(evidence.c.packets, sa.LargeBinary))  # bytes
_COLUMNS = (evidence.c.finding_id, evidence.c.flow_id, evidence.c.agent, evidence.c.time, evidence.c.packets)


def read(connection: Connection, finding_id: str) -> EvidenceRecord | None:
    """The evidence of exactly this finding; None where none was kept, or it was too old."""
    row = connection.execute(sa.select(*_COLUMNS).where(evidence.c.finding_id == finding_id)).first()
    return None if row is None else EvidenceRecord(*row)


def trim(connection: Connection, *, before: float, most: int) -> int:
    """Delete what is older than `before` (seconds), and the oldest past `most` bytes; returns how many."""
    gone = connection.execute(sa.delete(evidence).where(evidence.c.time < before)).rowcount
    total = sa.func.sum(SIZE).over(order_by=(evidence.c.time.desc(), evidence.c.finding_id))
    kept = sa.select(evidence.c.finding_id, total.label("total")).subquery()
    over = sa.select(kept.c.finding_id).where(kept.c.total > most)
    return gone + connection.execute(sa.delete(evidence).where(evidence.c.finding_id.in_(over))).rowcount
