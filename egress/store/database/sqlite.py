"""SQLite: one file in WAL mode, readable by its owner and group, one writer at a time."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Dialect, Engine

from egress.errors import EgressError, InputError

BUSY = 10.0  # seconds to wait for another writer before giving up
HINTS = {
    "not a database": "move the file away or name another in the config (database)",
    "malformed": "the file is damaged, move it away to start a new one",
    "readonly": "give this user write access to the file and its directory",
    "unable to open": "give this user write access to the file and its directory",
    "locked": f"another program held the write lock for {BUSY:.0f} s",
    "is full": "free space on its file system",
}


class SQLite:
    """A SQLite database file, given by its URL. Raises InputError if the URL names no file or has options."""

    def __init__(self, url: URL) -> None:
        if url.query or not url.database or url.database == ":memory:":
            raise InputError("database: SQLite needs a file here, like sqlite:////var/lib/egress/egress.db")
        self.path = Path(url.database).absolute()
        self.name = str(self.path)  # for messages

    def engine(self, *, create: bool) -> Engine:
        """Create the engine. A missing file is created with `create`, else it raises EgressError."""
        if create:
            _touch(self.path)
        elif not self.path.exists():
            raise EgressError(f"no database at {self.path} yet: start `egress gateway`, or name another with --config")
        engine = sa.create_engine(URL.create("sqlite", database=self.name), connect_args={"timeout": BUSY})
        sa.event.listen(engine, "connect", _prepare)
        sa.event.listen(engine, "begin", _begin)
        return engine

    def tables(self, connection: Connection) -> set[str]:
        """The names of the tables in the file."""
        return set(connection.scalars(sa.text("SELECT name FROM sqlite_master WHERE type = 'table'")))

    @contextmanager
    def alone(self, engine: Engine) -> Iterator[Connection]:
        """Open a transaction for migrations, one process at a time, and switch the file to WAL mode.

        A lock on the directory keeps other processes waiting: SQLite itself does not wait when it changes the mode.
        """
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            with closing(sqlite3.connect(self.path, timeout=BUSY)) as plain:
                plain.execute("PRAGMA journal_mode=WAL")  # outside a transaction, and kept by the file
            with writing(engine) as connection:
                yield connection
        finally:
            os.close(directory)


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that holds the write lock from its start; it is committed unless the block raises.

    Waits up to BUSY seconds for the lock, then raises DBAPIError.
    """
    with engine.execution_options(immediate=True).begin() as connection:
        yield connection


def seal(path: Path) -> None:
    """Merge the write-ahead log into the file, which can then be copied alone, and be read on read-only media.

    Does nothing while another process has the file open.
    """
    if not path.exists():
        return
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(path, timeout=BUSY)) as plain:
        # Fails while another process has the file open; that process needs the log.
        plain.execute("PRAGMA journal_mode=DELETE")


def _touch(path: Path) -> None:
    """Create the file if it is missing, readable by owner and group only, since it holds evidence.

    Raises EgressError with the reason if the file cannot be created or used; SQLite's own errors give none.
    """
    try:
        # O_EXCL: closing an existing file would release the locks that SQLite has on it in this process.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
        return
    except FileExistsError:
        why = "Is a directory" if path.is_dir() else "" if os.access(path, os.R_OK | os.W_OK) else "Permission denied"
    except OSError as error:
        why = error.strerror or str(error)
    if why:
        raise EgressError(f"cannot open database {path}: {why}; check its directory and owner")


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    # `_begin` sends BEGIN; where the module itself would, it breaks DDL and snapshots.
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys=ON")
    # A case may come from an attacker: its schema must not call our functions.
    connection.execute("PRAGMA trusted_schema=OFF")
    # A journal segment is deleted after its records are stored: by then the commit must be on disk.
    connection.execute("PRAGMA synchronous=FULL")
    connection.create_function("in_network", 2, in_network, deterministic=True)


def _begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def fenced(dialect: Dialect, query: sa.Select[Any]) -> sa.Select[Any]:
    """Make SQLite plan the query apart from the GROUP BY around it, so that it finds rows by their conditions.

    SQLite cannot estimate how few rows match; planned together, it would read all rows in the order of the groups. On
    PostgreSQL the query is returned unchanged.
    """
    return query.offset(0) if dialect.name == "sqlite" else query


@lru_cache(maxsize=65536)
def in_network(address: str, network: str) -> bool:
    """True if the address is in the CIDR; False if it is not an address. SQLite calls it as an SQL function."""
    try:
        return ipaddress.ip_address(address) in _network(network)
    except ValueError:
        return False


@lru_cache(maxsize=64)
def _network(network: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(network)
