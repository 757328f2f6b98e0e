"""Opening: first use, many at once, and every way it can fail in one line."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, IntegrityError

from egress.errors import EgressError, InputError
from egress.store.database.database import explain, open_database, storing, writing
from egress.store.database.postgresql import EDITING
from egress.store.database.sqlite import in_network
from egress.store.database.tables import agents, journal_checkpoints
from tests.store.postgres import PASSWORD, Server


def _refused(url: str, *, create: bool = True) -> str:
    with pytest.raises(EgressError) as caught:
        open_database(url, create=create)
    said = str(caught.value)
    assert "\n" not in said and PASSWORD not in said
    return said


# --- both --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_many_processes_may_open_it_first(database_url: str, server: Server) -> None:
    url = database_url if database_url.startswith("sqlite") else server.new()
    code = "import sys; from egress.store.database.database import open_database; open_database(sys.argv[1]).dispose()"
    root = Path(__file__).parents[3]
    started = [
        subprocess.Popen([sys.executable, "-c", code, url], cwd=root, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in started:
        assert process.communicate(timeout=60)[1] == ""
        assert process.returncode == 0


def test_newer_schema(engine: Engine, database_url: str) -> None:
    with writing(engine) as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    assert "upgrade this program" in _refused(database_url)


def test_another_programs_database(new_sqlite_url: str, server: Server) -> None:
    for url in (new_sqlite_url, server.new()):
        other = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        with other.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE places (url TEXT)")
        other.dispose()
        assert "another program" in _refused(url)


def test_not_made_when_only_asked_for(new_sqlite_url: str, server: Server, tmp_path: Path) -> None:
    for url in (new_sqlite_url, server.new()):
        assert "egress gateway" in _refused(url, create=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "mysql://h/d",
        "sqlite://",
        "sqlite:///:memory:",
        "postgresql://h",
        "postgresql://u:with@sign@h/d",
        "postgresql://h:port/d",
        "postgresql+asyncpg://h/d",
    ],
)
def test_urls_that_name_no_database(url: str) -> None:
    with pytest.raises(InputError) as caught:
        open_database(url)
    assert "sign" not in str(caught.value)


def test_the_tables_refuse_values_the_model_does_not_know(engine: Engine) -> None:
    row = {"name": "a", "networks": (), "mode": "enforce", "labels": (), "kind": "netns", "value": "x", "created": 0}
    bad = sa.insert(agents).values(default=sa.literal_column("'maybe'"), **row)
    with pytest.raises(IntegrityError), writing(engine) as connection:
        connection.execute(bad)


def test_edits_come_one_after_another(engine: Engine) -> None:
    """Rows that an edit has read do not change before it writes; on PostgreSQL records do not wait for edits."""
    steps = []

    def edit(name: str, seconds: float) -> None:
        with writing(engine) as connection:
            connection.execute(sa.select(sa.func.count()).select_from(agents))
            steps.append(f"{name} reads")
            time.sleep(seconds)
            steps.append(f"{name} writes")

    other = threading.Thread(target=edit, args=("first", 0.2))
    other.start()
    while not steps:
        time.sleep(0.001)
    if engine.dialect.name == "postgresql":
        with storing(engine) as connection:
            connection.execute(journal_checkpoints.insert(), {"segment": "a", "offset": 1, "updated": 1.0})
        steps.append("record")
    edit("second", 0)
    other.join()
    assert [step for step in steps if step != "record"] == [
        "first reads",
        "first writes",
        "second reads",
        "second writes",
    ]
    assert engine.dialect.name == "sqlite" or steps[1] == "record"


def test_an_edit_that_is_taken_back_leaves_nothing(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(journal_checkpoints.insert(), {"segment": "a", "offset": 1, "updated": 1.0})
        connection.rollback()
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(journal_checkpoints)) == 0


def test_a_transaction_sees_one_moment(engine: Engine) -> None:
    count = sa.select(sa.func.count()).select_from(journal_checkpoints)
    with engine.connect() as connection:
        before = connection.scalar(count)
        with storing(engine) as other:
            other.execute(journal_checkpoints.insert(), {"segment": "a", "offset": 1, "updated": 1.0})
        assert connection.scalar(count) == before == 0


def test_text_sorts_by_code_point(engine: Engine) -> None:
    words = ["a", "B", "-a", "é", "b", "_", "A", "ab", "a-b", "\U0001f600", "\uffff", "10", "9"]
    table = journal_checkpoints
    with writing(engine) as connection:
        connection.execute(table.insert(), [{"segment": word, "offset": 1, "updated": 1.0} for word in words])
        found = list(connection.scalars(sa.select(table.c.segment).order_by(table.c.segment)))
        below = set(connection.scalars(sa.select(table.c.segment).where(table.c.segment < "b")))
        assert connection.scalar(sa.select(sa.func.max(table.c.segment))) == max(words)
    assert found == sorted(words)
    assert below == {word for word in words if word < "b"}


# --- SQLite ------------------------------------------------------------------------------------------------


def test_first_use_makes_it_private_and_wal(new_sqlite_url: str, tmp_path: Path) -> None:
    engine = open_database(new_sqlite_url)
    assert (tmp_path / "egress.db").stat().st_mode & 0o007 == 0
    with engine.connect() as connection:
        pragmas = ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
        values = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas]
    engine.dispose()
    assert values == ["wal", 1, 2, 10000]


def test_no_directory(tmp_path: Path) -> None:
    assert "No such file or directory" in _refused(f"sqlite:///{tmp_path / 'no' / 'egress.db'}")
    assert "Is a directory" in _refused(f"sqlite:///{tmp_path}")


def test_unwritable_directory() -> None:
    assert "Permission denied" in _refused("sqlite:////sys/egress.db")  # where not even root may make a file


def test_not_a_database(tmp_path: Path) -> None:
    path = tmp_path / "egress.db"
    path.write_bytes(b"these are not the bytes of a database" * 100)
    assert "not a database" in _refused(f"sqlite:///{path}")
    assert path.read_bytes().startswith(b"these")


def test_opening_again_keeps_the_locks_there_are(sqlite_engine: Engine, sqlite_url: str) -> None:
    """A file descriptor that is closed takes all locks with it that its process has on the file (fcntl(2))."""
    code = (
        "import sqlite3, sys; there = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None);"
        "there.execute('PRAGMA locking_mode=EXCLUSIVE'); there.execute('BEGIN EXCLUSIVE')"
    )
    with sqlite_engine.connect() as connection:
        connection.execute(sa.select(agents)).all()
        open_database(sqlite_url).dispose()
        path = str(sqlite_engine.url.database)
        other = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert "database is locked" in other.stderr


@pytest.mark.parametrize(
    ("address", "network", "inside"),
    NETWORKS := [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("2001:db8::1", "2001:db8::/32", True),
        ("2001:db8::1", "0.0.0.0/0", False),
        ("::ffff:192.0.2.7", "::ffff:0:0/96", True),
        ("::ffff:192.0.2.7", "192.0.2.0/24", False),
        ("not an address", "0.0.0.0/0", False),
        ("10.1.2.3/32", "10.0.0.0/8", False),
        ("10.1.2.999", "0.0.0.0/0", False),
        ("1:2", "::/0", False),
        ("", "::/0", False),
    ],
)
def test_in_network(address: str, network: str, inside: bool) -> None:
    assert in_network(address, network) is inside


def test_in_network_in_the_database(engine: Engine) -> None:
    with engine.connect() as connection:
        found = [connection.scalar(sa.select(sa.func.in_network(*pair))) for *pair, _ in NETWORKS]
    assert [bool(each) for each in found] == [inside for *_, inside in NETWORKS]


# --- PostgreSQL --------------------------------------------------------------------------------------------


def test_what_a_server_can_refuse(server: Server) -> None:
    known = server.new("template_egress")
    assert "host and port" in _refused(known.replace(f":{server.port}/", ":1/"))
    assert "correct the host" in _refused(known.replace("127.0.0.1", "no-such-host.invalid"))
    assert "correct user and password" in _refused(server.url("postgres", password="wrong"))
    assert "CREATE DATABASE" in _refused(server.url("nowhere"))
    assert "correct the URL" in _refused(f"{known}?colour=blue")


def test_a_user_without_rights_is_told_which(server: Server) -> None:
    url = server.new()
    name = url.rpartition("/")[2]
    server.execute(
        f"CREATE ROLE {name} LOGIN PASSWORD 'limited'",
        f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC",
    )
    mine = server.url(name, name, "limited")
    assert "GRANT CONNECT" in _refused(mine)
    server.execute(f"GRANT CONNECT ON DATABASE {name} TO {name}")
    assert "OWNER TO" in _refused(mine)
    server.execute(f"ALTER DATABASE {name} OWNER TO {name}")
    open_database(mine).dispose()


def test_an_encoding_that_cannot_hold_all_text(server: Server) -> None:
    server.execute(
        "CREATE DATABASE narrow ENCODING 'LATIN1' LOCALE 'C' LOCALE_PROVIDER libc TEMPLATE template0",
    )
    assert "ENCODING 'UTF8'" in _refused(server.url("narrow"))


def test_a_lock_is_not_waited_for_without_end(postgresql_engine: Engine) -> None:
    with writing(postgresql_engine), pytest.raises(DBAPIError) as caught, storing(postgresql_engine) as connection:
        connection.exec_driver_sql("SET LOCAL lock_timeout = '50ms'")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({EDITING})")
    assert "another program held the lock" in explain(caught.value)


@pytest.mark.slow
def test_the_pool_outlives_the_servers_restart(server: Server, postgresql_engine: Engine) -> None:
    with postgresql_engine.connect() as connection:
        connection.execute(sa.select(agents)).all()
    server.stop()
    with pytest.raises(DBAPIError), writing(postgresql_engine):
        pass
    server.start()
    with writing(postgresql_engine) as connection:
        assert connection.execute(sa.select(agents)).all() == []


def test_no_password_where_it_would_be_shown(postgresql_engine: Engine) -> None:
    assert PASSWORD not in f"{postgresql_engine!r} {postgresql_engine.url}"
