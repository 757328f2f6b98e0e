"""Cases: databases of replayed capture files, apart from live records. Commands that read records accept a case.

A case is one SQLite file, also if the live database is PostgreSQL: `cases/NAME.db` in the state directory, or a path
that ends in `.db`. It contains no live records, so it can be passed on and deleted. It keeps the rules by which its
captures were judged, and the path, size and hash of each capture file.
"""

from __future__ import annotations

import os
import re
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from egress.config import Config
from egress.errors import EgressError, InputError
from egress.store.database import tables
from egress.store.database.database import open_database
from egress.store.database.errors import OldSchemaError
from egress.store.database.rows import decode, whole
from egress.store.database.sqlite import BUSY, seal
from egress.store.database.tables import captured_flows, captures

SUFFIX = ".db"
BESIDE = ("", "-wal", "-shm", "-journal")  # suffixes of the files that SQLite makes

# Finds schema objects that egress does not create; the triggers of egress protect the audit chain.
_FOREIGN = """
    SELECT substr(type, 1, 20), substr(name, 1, 60) FROM sqlite_master WHERE NOT (sql IS NULL
    OR sql GLOB 'CREATE TABLE *' OR sql GLOB 'CREATE INDEX *' OR sql GLOB 'CREATE UNIQUE INDEX *'
    OR (sql GLOB 'CREATE TRIGGER audit_*' AND tbl_name = 'audit')) LIMIT 1
"""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Capture:
    """A capture file in a case."""

    id: int
    file: str
    size: int  # bytes
    sha256: str
    added: float  # seconds
    finished: float | None  # None: being read, or interrupted
    policy_version: int
    networks: tuple[str, ...]
    packets: int = 0
    flows: int = 0
    findings: int = 0
    unread: int = 0  # frames that do not parse or belong to no agent
    truncated: str = ""  # where and how the file breaks off; empty: it is whole


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of a case. Times are seconds."""

    captures: tuple[Capture, ...]
    flows: int
    findings: int
    anomalies: int  # packets refused without a flow
    begin: float | None  # start of the first flow; None without flows
    end: float | None  # latest record of any flow
    shared: int  # flows that several captures contain


def case_path(config: Config, wanted: str) -> Path:
    """The path of a case, given by name or path; it need not exist. Raises InputError if the name is not valid."""
    if wanted.endswith(SUFFIX):
        return Path(wanted).absolute()
    if not _NAME.fullmatch(wanted):
        raise InputError(
            f"{wanted[:80]!a} is not a valid case name: up to 63 letters, digits, . _ -, or a path ending in {SUFFIX}"
        )
    return config.cases_dir / f"{wanted}{SUFFIX}"


def open_case(config: Config, wanted: str, *, writes: bool = False) -> Engine:
    """Open a case to read it; one of an older schema is read from a temporary copy, and stays as it is.

    `writes`: the caller will store in it; then a case of an older schema raises OldSchemaError, since the copy would
    take what is stored. Raises InputError if the name is not valid or it is the live database, EgressError if there is
    no such case, it is not a database of egress, or its schema has objects that egress does not create.
    """
    path = case_path(config, wanted)
    if not _exists(path):
        raise EgressError(
            f"there is no case {wanted} ({path}); `egress case list` lists the cases, "
            f"`egress replay --into-db {wanted} FILE` makes it"
        )
    _refuse_live(config, path)
    _refuse_foreign(path)
    try:
        return open_database(_url(path), create=False, migrate=False)
    except OldSchemaError:
        if writes:
            raise OldSchemaError(
                f"case {wanted} is of an older egress, and must be upgraded before anything is stored in it: make a "
                f"copy, then `egress db upgrade --case {wanted}`"
            ) from None
    return _open_copy(path)


def upgrade_case(config: Config, wanted: str) -> None:
    """Upgrade the schema of a case in place. Raises errors like `open_case`."""
    path = case_path(config, wanted)
    open_case(config, wanted).dispose()
    close_case(open_database(_url(path), create=False))


def case_url(config: Config, wanted: str) -> str:
    """The database URL of a case, given by name or path; it need not exist. Raises InputError as `case_path` does."""
    return _url(case_path(config, wanted))


def _open_copy(path: Path) -> Engine:
    """Copy a case, upgrade the copy and open it. The copy is deleted with its engine, or when the process ends.

    Raises EgressError if it cannot be copied.
    """
    directory = tempfile.TemporaryDirectory(prefix="egress-case-")
    copy = Path(directory.name) / path.name
    try:
        source = f"file:{quote(str(path))}?mode=ro"
        with closing(sqlite3.connect(source, uri=True, timeout=BUSY)) as old, closing(sqlite3.connect(copy)) as new:
            old.backup(new)
        engine = open_database(_url(copy), create=False)
    except BaseException as error:  # the directory must not stay
        directory.cleanup()
        if isinstance(error, (sqlite3.Error, OSError)):
            raise EgressError(f"cannot copy {path}, which an older egress made, to read it: {error}") from None
        raise
    sa.event.listen(engine, "engine_disposed", lambda _: directory.cleanup())
    return engine


def make_case(config: Config, wanted: str) -> tuple[Engine, bool]:
    """Open or create a case to add captures; also returns whether it existed.

    Raises InputError if the name is not valid or it is the live database, EgressError if the file is not a case or
    cannot be written.
    """
    path = case_path(config, wanted)
    _refuse_live(config, path)
    there = _named(config, path) if path.parent == config.cases_dir else _exists(path)
    if there:
        _refuse_foreign(path)
    engine = open_database(_url(path))
    try:
        with engine.connect() as connection:
            if not _is_case(connection):
                raise EgressError(f"{path} is not a case: it holds other records; use another name or path")
    except BaseException:  # raised again below; the engine must not stay open
        engine.dispose()
        raise
    return engine, there


def close_case(engine: Engine) -> None:
    """Dispose of the engine of a case that was written, and merge its write-ahead log, so that it is one file."""
    path = Path(engine.url.database or "")
    engine.dispose()
    seal(path)


def list_cases(config: Config) -> list[str]:
    """The sorted names of the cases in the directory of cases. Raises EgressError if it cannot be read."""
    try:
        found = sorted(path.stem for path in config.cases_dir.iterdir() if path.suffix == SUFFIX and path.is_file())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise EgressError(f"cannot list {config.cases_dir}: {error.strerror}") from None
    return [name for name in found if _NAME.fullmatch(name)]


def remove_case(config: Config, wanted: str) -> Path:
    """Delete the file of a case; returns its path. In the directory of cases a damaged file is deleted, too.

    Raises InputError if the name is not valid or it is the live database, EgressError if it does not exist, is not a
    case, or cannot be deleted.
    """
    path = case_path(config, wanted)
    _refuse_live(config, path)
    try:
        engine = open_case(config, wanted)
    except EgressError:
        # A damaged file in the directory of cases can be deleted, too.
        if path.parent != config.cases_dir or not _exists(path):
            raise
    else:
        try:
            with engine.connect() as connection:
                known = _is_case(connection)
        finally:
            engine.dispose()
        if not known:
            raise EgressError(f"{path} is not a case: it holds other records; nothing was deleted")
    try:
        for suffix in BESIDE:
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    except OSError as error:
        raise EgressError(f"cannot delete {path}: {error.strerror}") from None
    return path


def disk_size(path: Path) -> int:
    """The size in bytes of a case, with the files that SQLite keeps beside it."""
    found = (path.with_name(path.name + suffix) for suffix in BESIDE)
    return sum(each.stat().st_size for each in found if each.exists())


def contents(connection: Connection) -> Contents:
    """List the captures of an open case, and count its records."""
    flows, findings, anomalies = tables.flows, tables.findings, tables.anomalies
    begin, end, count = connection.execute(
        sa.select(sa.func.min(flows.c.start), sa.func.max(flows.c.updated), sa.func.count())
    ).one()
    several = sa.select(captured_flows.c.flow_id).group_by(captured_flows.c.flow_id).having(sa.func.count() > 1)
    return Contents(
        tuple(decode(Capture, connection.execute(sa.select(captures).order_by(captures.c.id)))),
        count,
        _count(connection, findings),
        whole(connection.scalar(sa.select(sa.func.coalesce(sa.func.sum(anomalies.c.count), 0))) or 0),
        begin,
        end,
        connection.scalar(sa.select(sa.func.count()).select_from(several.subquery())) or 0,
    )


def _refuse_live(config: Config, path: Path) -> None:
    """Raise InputError if the path is the live database, also if that does not exist yet or has a second name."""
    live = sa.make_url(config.database_url)
    if live.get_backend_name() != "sqlite" or not live.database:
        return
    try:
        same = path.samefile(live.database)
    except OSError:  # one of the files does not exist or is not accessible
        same = path.resolve() == Path(live.database).resolve()
    if same:
        raise InputError(f"{path} is the database of the gateway, not a case: leave --case out to read it")


def _refuse_foreign(path: Path) -> None:
    """Raise EgressError if the schema has objects that egress does not create, such as views or other triggers.

    Reading a view of an attacker might never end, and a trigger might write.
    """
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=BUSY)) as plain:
            plain.execute("PRAGMA trusted_schema=OFF")
            foreign = plain.execute(_FOREIGN).fetchone()
    except sqlite3.Error:  # not a database, or not readable: opening it reports that
        return
    if foreign is not None:
        raise EgressError(f"{path} has the {foreign[0]} {foreign[1]!a}, which egress never makes: it is not opened")


def _is_case(connection: Connection) -> bool:
    """True if the database has captures, or is empty (a new case)."""
    if _count(connection, captures):
        return True
    listed = sa.inspect(connection).get_table_names()
    known = [table for name, table in tables.metadata.tables.items() if name in listed]
    return not any(connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() for table in known)


def _count(connection: Connection, table: sa.Table) -> int:
    return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def _named(config: Config, path: Path) -> bool:
    """Create the directory of cases if needed; returns whether the case at `path` in it exists.

    Raises EgressError if the case could not be written.
    """
    try:
        config.cases_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        there = path.exists()
        why = "" if os.access(path if there else path.parent, os.W_OK) else "Permission denied"
    except OSError as error:
        why = error.strerror or str(error)
    if why:
        raise EgressError(f"cannot write {path}: {why}; give a path of your own: --into-db ./{path.name}")
    return there


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise EgressError(f"cannot look at {path}: {error.strerror}") from None


def _url(path: Path) -> str:
    return sa.URL.create("sqlite", database=str(path)).render_as_string()
