"""SQLite: one file in WAL mode, private to its owner and group, one writer at a time."""

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
    """The file that a URL names."""

    def __init__(self, url: URL) -> None:
        if url.query or not url.database or url.database == ":memory:":
            raise InputError("database: SQLite needs a file here, like sqlite:////var/lib/egress/egress.db")
        self.path = Path(url.database).absolute()
        self.name = str(self.path)  # for messages

    def engine(self, *, create: bool) -> Engine:
        """Makes the file where there is none, with `create`; else raises EgressError."""
        if create:
            _touch(self.path)
        elif not self.path.exists():
            raise EgressError(f"no database at {self.path} yet: start `egress gateway`, or name another with --config")
        engine = sa.create_engine(URL.create("sqlite", database=self.name), connect_args={"timeout": BUSY})
        sa.event.listen(engine, "connect", _prepare)
        sa.event.listen(engine, "begin", _begin)
        return engine

    def tables(self, connection: Connection) -> set[str]:
        return set(connection.scalars(sa.text("SELECT name FROM sqlite_master WHERE type = 'table'")))

    @contextmanager
    def alone(self, engine: Engine) -> Iterator[Connection]:
        """A transaction to migrate in, one process at a time: SQLite does not wait for the lock that WAL needs."""
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
    """A transaction that has the write lock from its start on."""
    with engine.execution_options(immediate=True).begin() as connection:
        yield connection


def seal(path: Path) -> None:
    """Make a file whole in itself, without a log beside it: to copy, and to read where nothing may be written."""
    if not path.exists():
        return
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(path, timeout=BUSY)) as plain:
        plain.execute("PRAGMA journal_mode=DELETE")  # fails while somebody else has it open, and then need not be


def _touch(path: Path) -> None:
    """Make the file, readable by owner and group only: it holds evidence. SQLite's own errors would not say why."""
    try:
        # Never an existing one: to close it again would take away the locks that SQLite has on it in this process.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
        return
    except FileExistsError:
        why = "Is a directory" if path.is_dir() else "" if os.access(path, os.R_OK | os.W_OK) else "Permission denied"
    except OSError as error:
        why = error.strerror or str(error)
    if why:
        raise EgressError(f"cannot open database {path}: {why}; check its directory and owner")


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # `_begin` says BEGIN; the module's own guesses break DDL and snapshots
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute(
        "PRAGMA trusted_schema=OFF"
    )  # a case may come from anybody: its schema calls none of our functions
    # A journal segment is deleted once it is stored: the commit must have reached the disk.
    connection.execute("PRAGMA synchronous=FULL")
    connection.create_function("in_network", 2, in_network, deterministic=True)


def _begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def by_itself(dialect: Dialect, query: sa.Select[Any]) -> sa.Select[Any]:
    """The query of which groups are made, so that SQLite looks its rows up by what they must fulfil.

    It would rather read all rows in the order of the groups, having no idea how few are wanted.
    """
    return query.offset(0) if dialect.name == "sqlite" else query


@lru_cache(maxsize=65536)
def in_network(address: str, network: str) -> bool:
    """SQL function: is the address inside the CIDR? What is not an address is in no network."""
    try:
        return ipaddress.ip_address(address) in _network(network)
    except ValueError:
        return False


@lru_cache(maxsize=64)
def _network(network: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(network)
