"""Periodic database maintenance by the recorder.

Creates PostgreSQL day partitions in advance and prunes old records, in short transactions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from egress.config import Retention
from egress.store.database import days
from egress.store.database.clock import clock
from egress.store.database.database import explain, storing
from egress.store.database.tables import DAYED
from egress.store.recording import retention

EVERY = 300.0  # seconds from the start of a round to the start of the next
PATIENCE = 1.0  # lock timeout in seconds for creating a partition; the next round retries


class Maintenance:
    """Runs rounds of maintenance, one every EVERY seconds, step by step. The first round is due at once.

    Each call of `step` runs at most one transaction, so that the recorder can store records between two steps.
    """

    def __init__(self, engine: Engine, kept: Retention) -> None:
        self._engine, self._kept = engine, kept
        self._next = 0.0  # by the monotonic clock
        self._round: Iterator[object] | None = None

    def step(self) -> str:
        """Run the next step if one is due. Returns the text of an error, which ends the round, or an empty string."""
        if self._round is None:
            if time.monotonic() < self._next:
                return ""
            self._next = time.monotonic() + EVERY
            self._round = self._steps()
        try:
            if next(self._round, None) is None:
                self._round = None
        except SQLAlchemyError as error:
            self._round = None
            return f"maintenance: {explain(error) if isinstance(error, DBAPIError) else error}"
        return ""

    def _steps(self) -> Iterator[object]:
        today = int(time.time() // 86400)
        if self._engine.dialect.name == "postgresql":
            for table in DAYED:
                with storing(self._engine) as connection:
                    days.ensure(connection, table, (today, today + 1), PATIENCE)
                yield table
        with self._engine.connect() as connection:
            # By the database's clock: a wrong clock of one host must not delete the records of all hosts.
            now, _ = clock(connection)
            wanted = retention.cuts(connection, self._kept, now)
        yield from retention.prune(self._engine, wanted)
