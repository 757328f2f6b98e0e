"""PostgreSQL, for more than one host: a database that only egress uses, over psycopg 3.

A transaction sees the database as of its start (REPEATABLE READ), as on SQLite. An edit holds the advisory lock
`EDITING` until its commit, so that edits run one after another, and notifies the listeners of `CHANNEL`. Records are
stored without the lock, beside edits. Text is compared by code point, independent of the database's collation
(migrations/env.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine

from egress.errors import EgressError, InputError

if TYPE_CHECKING:
    import psycopg

CHANNEL = "egress_changes"
EDITING = 0x6567_7265_7373  # "egress": the advisory lock of edits and migrations
LOCK = 10  # seconds to wait for a lock before giving up
STATEMENT = 60  # seconds that one statement may take
IDLE = 60  # seconds that a transaction with the edit lock may be idle before the server rolls it back
CONNECT = 5  # seconds
_POOL = {"pool_size": 5, "max_overflow": 20, "pool_timeout": LOCK, "pool_pre_ping": True}
# A record is looked up in the index of each day, whose upper pages are in memory: cheaper than the default assumes.
# JIT is off: a plan over many days has a high estimated cost but a short run time, and compiling it takes longer.
_PLANS = "-c random_page_cost=1.1 -c jit=off"
# A server that vanished is noticed within half a minute, not after the kernel's quarter of an hour.
_DRIVER: dict[str, str | int] = {
    "connect_timeout": CONNECT,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
    "application_name": "egress",
    "options": f"-c statement_timeout={STATEMENT}s -c lock_timeout={LOCK}s {_PLANS}",
}
# By SQLSTATE, as the server's messages may be in any language; without a connection by the words of libpq.
HINTS = {
    "Connection refused": "start the server, or correct host and port in the config (database)",
    "No such file or directory": "start the server, or correct host and port in the config (database)",
    "timeout expired": "the server does not answer; correct host and port in the config (database)",
    "timed out": "the server does not answer; correct host and port in the config (database)",
    "resolve": "correct the host in the config (database)",
    "translate host": "correct the host in the config (database)",
    "password": "correct user and password in the config (database)",
    "pg_hba.conf": "allow this user and host in the server's pg_hba.conf",
    '" does not exist': "create it first: CREATE ROLE …, CREATE DATABASE … OWNER …",
    "connection slots": "raise the server's max_connections",
    "too many clients": "raise the server's max_connections",
    "invalid connection option": "correct the URL in the config (database)",
    "permission denied for database": "GRANT CONNECT on it to this user, or make the user its owner",
    "42501": "make this user the owner of the database (ALTER DATABASE … OWNER TO …)",
    "3F000": "create a schema that is in the user's search_path, such as public",
    "25006": "this server is a standby; name the primary in the config (database)",
    "55P03": f"another program held the lock for {LOCK} s",
    "57014": f"it was stopped after {STATEMENT} s; narrow the query",
    "25P03": f"the transaction was idle for {IDLE} s",
    "53100": "free space on the server's file system",
    "53200": "raise the server's max_locks_per_transaction, see docs/operations.md",
    "53300": "raise the server's max_connections",
}


class PostgreSQL:
    """A PostgreSQL database, given by its URL; a URL without a host means the local socket.

    Raises InputError if the URL names no database or has an @ in its password.
    """

    def __init__(self, url: URL) -> None:
        if not url.database:
            raise InputError("database: name the database too, like postgresql://user:password@host/egress")
        if "@" in (url.host or ""):
            raise InputError("database: write an @ in the password as %40 (and : / ? # % as %3A %2F %3F %23 %25)")
        self._url = url.set(drivername="postgresql+psycopg")
        # For messages, without the password, which the URL's query may contain as well.
        where = URL.create("postgresql", url.username, None, url.host, url.port, url.database)
        self.name = where.render_as_string()

    def engine(self, *, create: bool) -> Engine:
        """Make the engine. A missing database is not created: `create` has no effect."""
        ours = {key: value for key, value in _DRIVER.items() if key not in self._url.query}
        engine = sa.create_engine(
            self._url, connect_args=ours, isolation_level="REPEATABLE READ", use_native_hstore=False, **_POOL
        )
        sa.event.listen(engine, "connect", self._check)
        return engine

    def tables(self, connection: Connection) -> set[str]:
        """The names of the tables in the current schema."""
        query = "SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname = current_schema()"
        return set(connection.scalars(sa.text(query)))

    @contextmanager
    def alone(self, engine: Engine) -> Iterator[Connection]:
        """Open a transaction for migrations, without a time limit; other processes wait for it."""
        with engine.execution_options(isolation_level="READ COMMITTED").begin() as connection:
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(EDITING)))
            yield connection

    def _check(self, connection: psycopg.Connection, _record: object) -> None:
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            connection.close()
            raise EgressError(
                f"{self.name} has encoding {encoding}, which cannot hold all text; create it with:"
                " CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
            )


@contextmanager
def storing(engine: Engine) -> Iterator[Connection]:
    """Open a transaction (READ COMMITTED) that may update rows which another session has changed since its start.

    It is committed unless the block raises.
    """
    with engine.execution_options(isolation_level="READ COMMITTED").begin() as connection:
        yield connection


def unhurried(connection: Connection) -> None:
    """Remove the time limit from the statements of this transaction."""
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that holds the edit lock from its start and notifies listeners when it is committed.

    It is committed unless the block raises. Waits up to LOCK seconds for the lock, then raises DBAPIError.
    """
    with storing(engine) as connection:
        idle = sa.func.set_config("idle_in_transaction_session_timeout", f"{IDLE}s", sa.true())
        connection.execute(sa.select(idle, sa.func.pg_advisory_xact_lock(EDITING)))
        yield connection
        if connection.in_transaction():  # else the caller rolled it back
            connection.exec_driver_sql(f"NOTIFY {CHANNEL}")
