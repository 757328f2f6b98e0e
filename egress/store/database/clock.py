"""The clock of the database: the PostgreSQL server's, which all hosts share; for a SQLite file this host's own."""

from __future__ import annotations

import time

import sqlalchemy as sa
from sqlalchemy import Connection


def clock(connection: Connection) -> tuple[float, float]:
    """The database's time (seconds since the epoch), and how many seconds this host's clock is ahead of it.

    The difference is exact to half the round trip to the server.
    """
    if connection.dialect.name == "sqlite":
        return time.time(), 0.0
    before = time.time()
    now = float(connection.scalar(sa.text("SELECT extract(epoch FROM clock_timestamp())::float8")) or 0.0)
    return now, (before + time.time()) / 2 - now
