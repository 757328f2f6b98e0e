"""Detects that a process has committed to the database; cheap enough to poll 50 times a second.

SQLite counts commits: `PRAGMA data_version` changes with a commit over any other connection, also of records.
PostgreSQL notifies: `database.writing` ends with a NOTIFY, which arrives once the edit is committed; records send none.
To tell an edit from other commits, compare `audit.latest` before and after: each edit adds an audit entry.
"""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError

from egress.errors import EgressError
from egress.store.database.database import explain
from egress.store.database.postgresql import CHANNEL

if TYPE_CHECKING:
    import psycopg

RETRY_SECONDS = 1.0  # between two attempts to listen again


class Watch:
    """Watches a database over its own connection, outside of the engine's pool. Any thread may call it.

    Raises EgressError if it cannot start.
    """

    def __init__(self, engine: Engine) -> None:
        self._lock = threading.Lock()
        self._source: _CommitCount | _Listener
        self._source = _CommitCount(engine) if engine.dialect.name == "sqlite" else _Listener(engine)

    def changed(self) -> bool:
        """True if a process, this one included, has committed since the last call (at first: since the watch began).

        On SQLite every commit counts, on PostgreSQL only edits. Takes microseconds and never waits. Raises EgressError
        while it cannot tell. SQLite: the file was moved, replaced or damaged; a new file needs a new engine and a new
        watch. PostgreSQL: the connection is lost. It is opened again in the background, and the first call after that
        returns True, as commits may have been missed.
        """
        with self._lock:
            return self._source.changed()

    def close(self) -> None:
        """Close the connection; `changed` then raises EgressError."""
        with self._lock:
            self._source.close()


class _CommitCount:
    """Watches a SQLite file: its inode and its count of commits."""

    def __init__(self, engine: Engine) -> None:
        self._path = Path(engine.url.database or "")
        self._connection = cast(sqlite3.Connection, _own(engine))
        self._connection.execute("PRAGMA busy_timeout=0")
        self._file = self._identity()
        self._version = 0
        self._version = self._read()

    def changed(self) -> bool:
        """True if any connection has committed since the last call. Raises EgressError if the file was replaced."""
        if self._identity() != self._file:
            raise EgressError(f"database {self._path} was replaced; open the new one")
        before, self._version = self._version, self._read()
        return self._version != before

    def close(self) -> None:
        self._connection.close()

    def _identity(self) -> tuple[int, int]:
        try:
            found = self._path.stat()
        except OSError as error:
            raise EgressError(f"database {self._path} is missing: {error.strerror}; restore it") from None
        return found.st_dev, found.st_ino

    def _read(self) -> int:
        try:
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                return self._version  # SQLite recovers the file; the next call will see the change
            raise EgressError(f"cannot watch database {self._path}: {error}") from None


class _Listener:
    """Watches PostgreSQL: listens for the NOTIFY of edits."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lost = ""  # the reason why there is no connection
        self._connecting: Future[psycopg.Connection] | None = None
        self._next = 0.0
        self._listening: psycopg.Connection | None = _listen(engine)

    def changed(self) -> bool:
        """True if an edit was committed since the last call. Raises EgressError while the connection is lost."""
        if self._listening is None:
            return self._returned()
        server = self._listening.pgconn
        try:
            server.consume_input()
        except _driver_error() as error:
            self._listening.close()
            self._listening, self._lost = None, " ".join(str(error).split())
            return self._returned()
        found = False
        while server.notifies() is not None:
            found = True
        return found

    def close(self) -> None:
        """Close the connection, also one that is being opened in the background."""
        self._next = math.inf
        self._lost = "the watch is closed"
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        if self._connecting is not None:
            self._connecting.add_done_callback(_discard)

    def _returned(self) -> bool:
        """Reconnect in the background. True when that has succeeded; raises EgressError until then."""
        if self._connecting is None and time.monotonic() >= self._next:
            self._connecting = Future()
            threading.Thread(target=_try, args=(self._engine, self._connecting), daemon=True).start()
        if self._connecting is not None and self._connecting.done():
            connecting, self._connecting = self._connecting, None
            self._next = time.monotonic() + RETRY_SECONDS
            error = connecting.exception()
            if error is None:
                self._listening = connecting.result()
                return True
            self._lost = str(error)
        raise EgressError(f"the connection to the database is lost: {self._lost}")


def _own(engine: Engine) -> object:
    """Open a connection that does not belong to the engine's pool; returns the driver's. Raises EgressError."""
    try:
        connection = engine.connect()
    except DBAPIError as error:
        raise EgressError(f"cannot watch the database: {explain(error)}") from None
    connection.detach()
    return connection.connection.dbapi_connection


def _driver_error() -> type[Exception]:
    from psycopg import Error  # only needed on PostgreSQL, and takes a tenth of a second to import

    return Error


def _listen(engine: Engine) -> psycopg.Connection:
    connection = cast("psycopg.Connection", _own(engine))
    try:
        connection.autocommit = True
        connection.execute(f"LISTEN {CHANNEL}".encode())
    except _driver_error() as error:
        connection.close()
        raise EgressError(f"cannot watch the database: {' '.join(str(error).split())}") from None
    return connection


def _try(engine: Engine, connecting: Future[psycopg.Connection]) -> None:
    try:
        connecting.set_result(_listen(engine))
    except BaseException as error:  # noqa: BLE001 - `_returned` raises it
        connecting.set_exception(error)


def _discard(connecting: Future[psycopg.Connection]) -> None:
    if connecting.exception() is None:
        connecting.result().close()
