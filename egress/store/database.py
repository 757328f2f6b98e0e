"""Opening the database: SQLite in WAL mode, created and migrated on first use, by however many processes at once."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import ArgumentError, DBAPIError

from egress.errors import EgressError, InputError

if TYPE_CHECKING:
    from alembic.config import Config as AlembicConfig

HEAD = "0002"  # the newest revision in migrations/versions
BUSY = 10.0  # seconds to wait for another writer before giving up
_OTHER_DRIVER = "database: only SQLite is supported so far; use a URL like sqlite:////var/lib/egress/egress.db"


def open_database(url: str, *, create: bool = True) -> Engine:
    """The engine for `url` (`sqlite:///path`), its schema at `HEAD`.

    Without `create` a missing file is an error. Raises EgressError: no or unwritable directory, not a database,
    another program's, or a newer egress's; InputError for a URL that is not SQLite's.
    """
    path = _path(url)
    if not create and not path.exists():
        raise EgressError(f"no database at {path} yet: start `egress gateway`, or name another with --config")
    _touch(path)
    engine = sa.create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": BUSY})
    sa.event.listen(engine, "connect", _prepare)
    sa.event.listen(engine, "begin", _begin)
    try:
        if _revision(engine, path) != HEAD:
            with _alone(path):
                _migrate(engine, path)
    except DBAPIError as error:
        engine.dispose()
        raise EgressError(f"cannot use database {path}: {explain(error)}") from None
    except EgressError:
        engine.dispose()
        raise
    return engine


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that takes the write lock at its start, so that what it reads first cannot change under it."""
    with engine.execution_options(immediate=True).begin() as connection:
        yield connection


def explain(error: DBAPIError) -> str:
    """The driver's own words, one line, and what to do where we know it."""
    text = " ".join(str(error.orig).split())
    hints = {
        "not a database": "; move the file away or name another in the config (database)",
        "malformed": "; the file is damaged, move it away to start a new one",
        "readonly": "; give this user write access to the file and its directory",
        "unable to open": "; give this user write access to the file and its directory",
        "locked": f"; another program held the write lock for {BUSY:.0f} s",
        "is full": "; free space on its file system",
    }
    return text + next((hint for words, hint in hints.items() if words in text), "")


def _path(url: str) -> Path:
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
        raise InputError(_OTHER_DRIVER) from None
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite") or parsed.query:
        raise InputError(_OTHER_DRIVER)
    if not parsed.database or parsed.database == ":memory:":
        raise InputError("database: SQLite needs a file here, like sqlite:////var/lib/egress/egress.db")
    return Path(parsed.database).absolute()


def _touch(path: Path) -> None:
    """Make the file, readable by owner and group only: it holds evidence. SQLite's own errors would not say why."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640))
    except OSError as error:
        raise EgressError(f"cannot open database {path}: {error.strerror}; check its directory and owner") from None


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # `_begin` says BEGIN; the module's own guesses break DDL and snapshots
    connection.execute("PRAGMA foreign_keys=ON")
    # A journal segment is deleted once it is stored: the commit must have reached the disk.
    connection.execute("PRAGMA synchronous=FULL")
    connection.create_function("in_network", 2, in_network, deterministic=True)


def _begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time: SQLite does not wait for the lock that the change to WAL needs."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _revision(engine: Engine, path: Path) -> str:
    """The schema's revision; empty for a new file. Raises EgressError for another program's database."""
    with engine.connect() as connection:
        tables = set(connection.scalars(sa.text("SELECT name FROM sqlite_master WHERE type = 'table'")))
        if "alembic_version" in tables:
            return connection.scalar(sa.text("SELECT version_num FROM alembic_version")) or ""
    if tables:
        raise EgressError(f"{path} is another program's database; name another file in the config (database)")
    return ""


def _migrate(engine: Engine, path: Path) -> None:
    # Alembic takes a third of a second to import, and is needed once in the life of a database.
    from alembic import command
    from alembic.script import ScriptDirectory

    config = alembic_config()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    with closing(sqlite3.connect(path, timeout=BUSY)) as plain:
        plain.execute("PRAGMA journal_mode=WAL")  # outside a transaction, and kept by the file
    with writing(engine) as connection:
        found = _revision(engine, path)
        if found and found not in known:
            raise EgressError(f"{path} was made by a newer egress (schema {found}); upgrade this program")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def alembic_config() -> AlembicConfig:
    """Alembic's config for the packaged migrations, without an ini file; put a `connection` into its attributes."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(resources.files("migrations")).replace("%", "%%"))
    return config


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
