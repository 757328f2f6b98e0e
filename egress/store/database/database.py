"""Opens the database, SQLite or PostgreSQL; creates and migrates it on first use, also by several processes at once."""

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
from egress.store.database.errors import OldSchemaError

if TYPE_CHECKING:
    from alembic.config import Config as AlembicConfig

HEAD = "0013"  # the newest revision in migrations/versions

_URLS = "use a URL like sqlite:////var/lib/egress/egress.db or postgresql://user:password@host/egress"


class _Backend(Protocol):
    """The interface of each kind of database (SQLite, PostgreSQL); an instance is made from a URL."""

    name: str  # for messages

    def engine(self, *, create: bool) -> Engine: ...
    def tables(self, connection: Connection) -> set[str]: ...
    def alone(self, engine: Engine) -> AbstractContextManager[Connection]: ...


_KINDS: dict[str, Callable[[URL], _Backend]] = {
    "sqlite": sqlite.SQLite,
    "sqlite+pysqlite": sqlite.SQLite,
    "postgresql": postgresql.PostgreSQL,
    "postgresql+psycopg": postgresql.PostgreSQL,
}


def open_database(url: str, *, create: bool = True, migrate: bool = True) -> Engine:
    """Open `url` (`sqlite:///path`, `postgresql://user:password@host/name`) and migrate its schema to `HEAD`.

    With `create` a missing file or missing tables are created; else they raise EgressError. Without `migrate` an older
    schema is not changed, but raises OldSchemaError. Raises EgressError if the directory is missing or not writable, if
    the file is not a database, if another program or a newer egress made it, or if the server is not reachable or
    refuses user or password; InputError for any other URL. No message contains the password.
    """
    backend = _backend(url)
    engine = backend.engine(create=create)
    try:
        revision = _revision(engine, backend)
        if not revision and not create:
            raise EgressError(
                f"no database at {backend.name} yet: start `egress gateway`, or name another with --config"
            )
        if revision != HEAD and not migrate and revision:
            _missing(revision, backend)  # raises if a newer egress made it
            raise OldSchemaError(
                f"{backend.name} has schema {revision} of an older egress, and this one needs {HEAD}: make a backup, "
                f"then `egress db upgrade`; the gateway upgrades it, too, when it starts"
            )
        if revision != HEAD:
            _migrate(engine, backend)
    except DBAPIError as error:
        engine.dispose()
        raise EgressError(f"cannot use database {backend.name}: {explain(error)}") from None
    except BaseException:  # raised again below; the engine must not stay open
        engine.dispose()
        raise
    return engine


@dataclass(frozen=True, slots=True)
class Schema:
    """The schema of a database, compared with that of this program (HEAD)."""

    name: str  # of the database, for messages, without its password
    revision: str  # empty: no tables yet
    missing: tuple[tuple[str, str], ...]  # the revisions not applied yet, up to HEAD, and their summaries, in order


def schema(url: str) -> Schema:
    """Compare the schema of the database at a URL with HEAD; changes nothing. Raises errors like `open_database`.

    A missing SQLite file counts as a database without tables.
    """
    backend = _backend(url)
    try:
        engine = backend.engine(create=False)
    except EgressError:
        return Schema(backend.name, "", _missing("", backend))
    try:
        found = _revision(engine, backend)
    except DBAPIError as error:
        raise EgressError(f"cannot use database {backend.name}: {explain(error)}") from None
    finally:
        engine.dispose()
    return Schema(backend.name, found, _missing(found, backend) if found != HEAD else ())


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Open a transaction for an edit of policy, agents or tokens; it is committed unless the block raises.

    Edits run one after another: this waits up to 10 s for another one, then raises DBAPIError. On PostgreSQL records
    can be stored meanwhile; on SQLite every writer waits.
    """
    kind = sqlite if engine.dialect.name == "sqlite" else postgresql
    with kind.writing(engine) as connection:
        yield connection


@contextmanager
def storing(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that stores records; it is committed unless the block raises.

    On PostgreSQL it does not wait for edits, on SQLite it does.
    """
    store = sqlite.writing if engine.dialect.name == "sqlite" else postgresql.storing
    with store(engine) as connection:
        yield connection


@contextmanager
def unhurried(engine: Engine) -> Iterator[Connection]:
    """Open a transaction for long reads, whose statements have no time limit; it sees the database as of its start."""
    with engine.begin() as connection:
        if engine.dialect.name != "sqlite":
            postgresql.unhurried(connection)
        yield connection


def require_schema(connection: Connection) -> None:
    """Raise EgressError if the schema is not HEAD: a newer egress has migrated it, and could misread these rows."""
    found = _schema(connection)
    if found != HEAD:
        raise EgressError(f"a newer egress has migrated the database (schema {found}): upgrade this one too")


def explain(error: DBAPIError) -> str:
    """The message of the database's driver in one line, with a remedy if one is known."""
    text = " ".join(str(error.orig).split())
    state = getattr(error.orig, "sqlstate", None)
    hints = postgresql.HINTS if hasattr(error.orig, "sqlstate") else sqlite.HINTS
    return text + next((f"; {hint}" for words, hint in hints.items() if words in text or words == state), "")


def _backend(url: str) -> _Backend:
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError):
        raise InputError(f"database: {_URLS}") from None
    if parsed.drivername not in _KINDS:
        raise InputError(f"database: only SQLite and PostgreSQL are supported; {_URLS}")
    return _KINDS[parsed.drivername](parsed)


def _revision(engine: Engine, backend: _Backend) -> str:
    """The schema's revision; empty without tables. Raises EgressError for another program's database."""
    with engine.connect() as connection:
        return _found(connection, backend)


def _found(connection: Connection, backend: _Backend) -> str:
    tables = backend.tables(connection)
    if "alembic_version" in tables:
        return _schema(connection)
    if tables:
        raise EgressError(f"{backend.name} is another program's database; name another in the config (database)")
    return ""


def _schema(connection: Connection) -> str:
    return connection.scalar(sa.text("SELECT version_num FROM alembic_version")) or ""


def _missing(found: str, backend: _Backend) -> tuple[tuple[str, str], ...]:
    """The revisions after `found` up to HEAD, with their summaries. Raises EgressError if `found` is a newer one."""
    from alembic.script import ScriptDirectory

    every = list(ScriptDirectory.from_config(alembic_config()).walk_revisions())[::-1]
    known = [script.revision for script in every]
    if found and found not in known:
        raise EgressError(f"{backend.name} was made by a newer egress (schema {found}); upgrade this program")
    first = known.index(found) + 1 if found else 0
    return tuple((script.revision, (script.doc or "").partition("\n")[0]) for script in every[first:])


def _migrate(engine: Engine, backend: _Backend) -> None:
    # Alembic takes a third of a second to import, and is rarely needed.
    from alembic import command

    config = alembic_config()
    with backend.alone(engine) as connection:
        _missing(_found(connection, backend), backend)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def alembic_config() -> AlembicConfig:
    """Alembic's config for the packaged migrations, without an ini file. The caller adds a `connection` attribute."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(resources.files("migrations")).replace("%", "%%"))
    return config
