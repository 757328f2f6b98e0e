"""The gateway's connection to its database: open it, run transactions, watch for commits, notice that it is away.

"Away" means that the database cannot be used: it is unreachable, damaged or replaced, older than the policy in force
here (it would undo refusals), or migrated by a newer egress (our writes could mean something else).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from egress.errors import EgressError, InputError
from egress.store.database import database
from egress.store.database.commits import Watch
from egress.store.database.handles import Connection, DBAPIError, Engine, SQLAlchemyError
from egress.store.policy import audit, ruleset

T = TypeVar("T")


class DatabaseAwayError(EgressError):
    """The database cannot be used now."""


class DatabaseLink:
    """Opens the database, runs transactions on it, and marks it as away when they fail, until `open` succeeds.

    Transactions may run in several threads at once; calls of `open`, `close` and `changed` must not overlap.
    """

    def __init__(self, url: str, host: str = "") -> None:
        self.host = host  # in the rows that this gateway writes
        self.since: float | None = None  # the time since which it is away; None: it is not
        self.error = ""
        self._url = url
        self._engine: Engine | None = None
        self._watch: Watch | None = None

    @property
    def ok(self) -> bool:
        """True if the database is open and not away."""
        return self._engine is not None and self.since is None

    def open(self, *, create: bool, version: int = 0, entry: int = 0, head: str = "") -> None:
        """Open the database; `create` it if it does not exist. Raises InputError for a URL that is not valid.

        Raises DatabaseAwayError, also if it is older than policy `version` or audit `entry`, or if that entry has
        another hash than `head`.
        """
        self.close()
        try:
            engine = self._engine = database.open_database(self._url, create=create)
            self._watch = Watch(engine)
            with engine.begin() as connection:
                known = ruleset.current(connection), audit.latest(connection)
                lost = audit.lacks(connection, audit.Anchor(head, entry, " by this gateway"))
        except InputError:
            raise
        except (EgressError, SQLAlchemyError, OSError) as error:
            raise self.lost(_words(error)) from None
        if lost:
            raise self.lost(f"{lost}; bring the right database back")
        if known[0] < version or known[1] < entry:
            raise self.lost(
                f"it is older than the policy in force here (policy version {known[0]} of {version}, audit entry"
                f" {known[1]} of {entry}): bring the right one back"
            )
        self.since, self.error = None, ""

    def close(self) -> None:
        """Close the connections to the database; no effect if it is not open."""
        engine, watch, self._engine, self._watch = self._engine, self._watch, None, None
        if watch is not None:
            watch.close()
        if engine is not None:
            engine.dispose()

    def lost(self, error: str) -> DatabaseAwayError:
        """Mark the database as away until it is opened again. Returns the error to raise."""
        if self.since is None:
            self.since = time.time()
        self.error = error
        return DatabaseAwayError(f"the database is away: {error}")

    def changed(self) -> bool:
        """Return True if any process has committed since the last call; False while it is away. Takes microseconds."""
        if self._watch is None or not self.ok:
            return False
        try:
            return self._watch.changed()
        except (SQLAlchemyError, EgressError, OSError) as error:
            self.lost(_words(error))
            return False

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction that only reads, in a thread; returns its result. Raises DatabaseAwayError."""

        def run() -> T:
            with self.reading() as connection:
                return work(connection)

        return await asyncio.to_thread(run)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction that edits, in a thread, and commit it; returns its result.

        Raises DatabaseAwayError.
        """

        def run() -> T:
            with self.writing() as connection:
                return work(connection)

        return await asyncio.to_thread(run)

    async def store(self, work: Callable[[Connection], T]) -> T:
        """Run `work` as `write` does, for rows that are not edits. Raises DatabaseAwayError.

        On PostgreSQL the transaction neither waits for edits nor notifies other processes.
        """

        def run() -> T:
            with self._answering() as engine, database.storing(engine) as connection:
                self._require_schema(connection)
                return work(connection)

        return await asyncio.to_thread(run)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a transaction that only reads. Raises DatabaseAwayError."""
        with self._answering() as engine, engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction that writes, all or nothing. Raises DatabaseAwayError."""
        with self._answering() as engine, database.writing(engine) as connection:
            self._require_schema(connection)
            yield connection

    def _require_schema(self, connection: Connection) -> None:
        try:
            database.require_schema(connection)
        except EgressError as error:
            raise self.lost(str(error)) from None

    @contextmanager
    def _answering(self) -> Iterator[Engine]:
        engine = self._engine
        if engine is None or not self.ok:
            raise DatabaseAwayError(f"the database is away: {self.error}")
        try:
            yield engine
        except SQLAlchemyError as error:
            raise self.lost(_words(error)) from None


def _words(error: Exception) -> str:
    if isinstance(error, DBAPIError):
        return database.explain(error)
    return " ".join(str(error).split())[:300]
