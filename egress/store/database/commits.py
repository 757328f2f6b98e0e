"""Noticing what others commit, cheaply enough to look fifty times a second.

SQLite counts commits: `PRAGMA data_version` moves with those of any other connection, records included. PostgreSQL
tells who listens: `database.writing` ends with a NOTIFY, which arrives when the edit is committed; records are silent.
After `changed()`, `audit.latest` says whether it was an edit.
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
    """A connection of its own beside the engine's pool. Any thread may look, one after another.

    Raises EgressError where it cannot begin.
    """

    def __init__(self, engine: Engine) -> None:
        self._lock = threading.Lock()
        self._source: _Counted | _Told = _Counted(engine) if engine.dialect.name == "sqlite" else _Told(engine)

    def changed(self) -> bool:
        """Whether anybody has committed since the last call (the first: since the watch began), this process included.

        Microseconds, never waits. Raises EgressError while it cannot know. SQLite: the file was moved, replaced or
        damaged; for a new file make a new engine and a new watch. PostgreSQL: the connection is lost, and is made
        again in the background; the first call after that gives True, for what was missed.
        """
        with self._lock:
            return self._source.changed()

    def close(self) -> None:
        with self._lock:
            self._source.close()


class _Counted:
    def __init__(self, engine: Engine) -> None:
        self._path = Path(engine.url.database or "")
        self._connection = cast(sqlite3.Connection, _own(engine))
        self._connection.execute("PRAGMA busy_timeout=0")
        self._file = self._identity()
        self._version = 0
        self._version = self._read()

    def changed(self) -> bool:
        if self._identity() != self._file:
            raise EgressError(f"database {self._path} was replaced; what is there now must be opened anew")
        before, self._version = self._version, self._read()
        return self._version != before

    def close(self) -> None:
        self._connection.close()

    def _identity(self) -> tuple[int, int]:
        try:
            found = self._path.stat()
        except OSError as error:
            raise EgressError(f"database {self._path} is gone: {error.strerror}; bring it back") from None
        return found.st_dev, found.st_ino

    def _read(self) -> int:
        try:
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error as error:
            if (
                getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
            ):  # recovering: the next look will see it
                return self._version
            raise EgressError(f"cannot watch database {self._path}: {error}") from None


class _Told:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lost = ""  # why there is no connection
        self._coming: Future[psycopg.Connection] | None = None
        self._next = 0.0
        self._listening: psycopg.Connection | None = _listen(engine)

    def changed(self) -> bool:
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
        self._next = math.inf
        self._lost = "the watch is closed"
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        if self._coming is not None:
            self._coming.add_done_callback(_discard)

    def _returned(self) -> bool:
        """True once it listens again."""
        if self._coming is None and time.monotonic() >= self._next:
            self._coming = Future()
            threading.Thread(target=_try, args=(self._engine, self._coming), daemon=True).start()
        if self._coming is not None and self._coming.done():
            coming, self._coming = self._coming, None
            self._next = time.monotonic() + RETRY_SECONDS
            error = coming.exception()
            if error is None:
                self._listening = coming.result()
                return True
            self._lost = str(error)
        raise EgressError(f"the connection to the database is lost: {self._lost}")


def _own(engine: Engine) -> object:
    """A connection of the driver's, which the pool forgets. Raises EgressError."""
    try:
        connection = engine.connect()
    except DBAPIError as error:
        raise EgressError(f"cannot watch the database: {explain(error)}") from None
    connection.detach()
    return connection.connection.dbapi_connection


def _driver_error() -> type[Exception]:
    from psycopg import Error  # only where there is PostgreSQL: it takes a tenth of a second to import

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


def _try(engine: Engine, coming: Future[psycopg.Connection]) -> None:
    try:
        coming.set_result(_listen(engine))
    except BaseException as error:  # noqa: BLE001 - whoever looks next gets it
        coming.set_exception(error)


def _discard(coming: Future[psycopg.Connection]) -> None:
    if coming.exception() is None:
        coming.result().close()
