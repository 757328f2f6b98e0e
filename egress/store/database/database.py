"""Opening the database, SQLite or PostgreSQL: made and migrated on first use, by however many processes at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Protocol

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import ArgumentError, DBAPIError

from egress.errors import EgressError, InputError
from egress.store.database import postgresql, sqlite

if TYPE_CHECKING:
    from alembic.config import Config as AlembicConfig

HEAD = "0009"  # the newest revision in migrations/versions

_URLS = "use a URL like sqlite:////var/lib/egress/egress.db or postgresql://user:password@host/egress"


class _Place(Protocol):
    """What a URL names."""

    name: str  # for messages

    def engine(self, *, create: bool) -> Engine: ...
    def tables(self, connection: Connection) -> set[str]: ...
    def alone(self, engine: Engine) -> AbstractContextManager[Connection]: ...


_KINDS: dict[str, Callable[[URL], _Place]] = {
    "sqlite": sqlite.SQLite,
    "sqlite+pysqlite": sqlite.SQLite,
    "postgresql": postgresql.PostgreSQL,
    "postgresql+psycopg": postgresql.PostgreSQL,
}


def open_database(url: str, *, create: bool = True) -> Engine:
    """The engine for `url` (`sqlite:///path`, `postgresql://user:password@host/name`), its schema at `HEAD`.

    Without `create` a missing file, or a database without tables, is an error. Raises EgressError: no or unwritable
    directory, not a database, another program's, a newer egress's, no such server, user or password; InputError for
    any other URL. No message holds the password.
    """
    place = _place(url)
    engine = place.engine(create=create)
    try:
        revision = _revision(engine, place)
        if not revision and not create:
            raise EgressError(f"no database at {place.name} yet: start `egress gateway`, or name another with --config")
        if revision != HEAD:
            _migrate(engine, place)
    except DBAPIError as error:
        engine.dispose()
        raise EgressError(f"cannot use database {place.name}: {explain(error)}") from None
    except BaseException:  # whatever it is, it goes on; the engine must not stay open
        engine.dispose()
        raise
    return engine


@dataclass(frozen=True, slots=True)
class Schema:
    """What a database's tables are like."""

    name: str  # of the database, for messages: without its password
    revision: str  # empty: there are none yet
    missing: tuple[tuple[str, str], ...]  # revisions up to HEAD and what each is about, in their order


def schema(url: str) -> Schema:
    """Look, and change nothing. Raises EgressError as `open_database` does."""
    place = _place(url)
    try:
        engine = place.engine(create=False)
    except EgressError:
        return Schema(place.name, "", _missing("", place))
    try:
        found = _revision(engine, place)
    except DBAPIError as error:
        raise EgressError(f"cannot use database {place.name}: {explain(error)}") from None
    finally:
        engine.dispose()
    return Schema(place.name, found, _missing(found, place) if found != HEAD else ())


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that takes the write lock at its start, so that what it reads first cannot change under it."""
    kind = sqlite if engine.dialect.name == "sqlite" else postgresql
    with kind.writing(engine) as connection:
        yield connection


@contextmanager
def storing(engine: Engine) -> Iterator[Connection]:
    """A transaction for records, which on PostgreSQL waits for no edit."""
    store = sqlite.writing if engine.dialect.name == "sqlite" else postgresql.storing
    with store(engine) as connection:
        yield connection


@contextmanager
def unhurried(engine: Engine) -> Iterator[Connection]:
    """A transaction to read in that takes its time; it sees one moment."""
    with engine.begin() as connection:
        if engine.dialect.name != "sqlite":
            postgresql.unhurried(connection)
        yield connection


def require_schema(connection: Connection) -> None:
    """Raise EgressError where a newer egress has migrated the tables under us: what we write may mean another thing."""
    found = _schema(connection)
    if found != HEAD:
        raise EgressError(f"a newer egress has migrated the database (schema {found}): upgrade this one too")


def explain(error: DBAPIError) -> str:
    """The driver's own words, one line, and what to do where we know it."""
    text = " ".join(str(error.orig).split())
    state = getattr(error.orig, "sqlstate", None)
    hints = postgresql.HINTS if hasattr(error.orig, "sqlstate") else sqlite.HINTS
    return text + next((f"; {hint}" for words, hint in hints.items() if words in text or words == state), "")


def _place(url: str) -> _Place:
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError):
        raise InputError(f"database: {_URLS}") from None
    if parsed.drivername not in _KINDS:
        raise InputError(f"database: only SQLite and PostgreSQL are supported; {_URLS}")
    return _KINDS[parsed.drivername](parsed)


def _revision(engine: Engine, place: _Place) -> str:
    """The schema's revision; empty where there is none yet. Raises EgressError for another program's database."""
    with engine.connect() as connection:
        return _found(connection, place)


def _found(connection: Connection, place: _Place) -> str:
    tables = place.tables(connection)
    if "alembic_version" in tables:
        return _schema(connection)
    if tables:
        raise EgressError(f"{place.name} is another program's database; name another in the config (database)")
    return ""


def _schema(connection: Connection) -> str:
    return connection.scalar(sa.text("SELECT version_num FROM alembic_version")) or ""


def _missing(found: str, place: _Place) -> tuple[tuple[str, str], ...]:
    from alembic.script import ScriptDirectory

    every = list(ScriptDirectory.from_config(alembic_config()).walk_revisions())[::-1]
    known = [script.revision for script in every]
    if found and found not in known:
        raise EgressError(f"{place.name} was made by a newer egress (schema {found}); upgrade this program")
    first = known.index(found) + 1 if found else 0
    return tuple((script.revision, (script.doc or "").partition("\n")[0]) for script in every[first:])


def _migrate(engine: Engine, place: _Place) -> None:
    # Alembic takes a third of a second to import, and is needed once in the life of a database.
    from alembic import command

    config = alembic_config()
    with place.alone(engine) as connection:
        _missing(_found(connection, place), place)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def alembic_config() -> AlembicConfig:
    """Alembic's config for the packaged migrations, without an ini file; put a `connection` into its attributes."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(resources.files("migrations")).replace("%", "%%"))
    return config
