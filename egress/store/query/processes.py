"""Reads the processes that opened flows."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from egress.records.shape import ProcessRecord
from egress.store.database.rows import decode
from egress.store.database.tables import flows, processes

OF_FLOW = sa.and_(processes.c.flow_id == flows.c.flow_id, processes.c.time == flows.c.start)  # a process and its flow


def by_flow(
    connection: Connection, ids: Sequence[str], begun: tuple[float, float] | None = None
) -> dict[str, ProcessRecord]:
    """The recorded processes of these flows, by flow id; a flow without one is left out.

    `begun`, the first and last of the flows' starts (seconds), limits the search; None: not limited.
    """
    query = sa.select(processes).where(processes.c.flow_id.in_(ids)).order_by(processes.c.time)
    if begun is not None:
        query = query.where(processes.c.time.between(*begun))
    return {record.flow_id: record for record in decode(ProcessRecord, connection.execute(query))}
