"""Opening: first use, many at once, and every way it can fail in one line."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError

from egress.errors import EgressError, InputError
from egress.store.database import in_network, open_database, writing
from egress.store.tables import agents


def _refused(url: str, *, create: bool = True) -> str:
    with pytest.raises(EgressError) as caught:
        open_database(url, create=create)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_first_use_makes_it_private_and_wal(engine: Engine, tmp_path: Path) -> None:
    assert (tmp_path / "egress.db").stat().st_mode & 0o007 == 0
    with engine.connect() as connection:
        pragmas = ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
        values = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas]
    assert values == ["wal", 1, 2, 10000]


def test_many_processes_may_open_it_first(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'egress.db'}"
    code = f"from egress.store.database import open_database; open_database({url!r}).dispose()"
    root = Path(__file__).parents[2]
    started = [
        subprocess.Popen([sys.executable, "-c", code], cwd=root, stderr=subprocess.PIPE, text=True) for _ in range(5)
    ]
    for process in started:
        assert process.communicate(timeout=60)[1] == ""
        assert process.returncode == 0


def test_no_directory(tmp_path: Path) -> None:
    assert "No such file or directory" in _refused(f"sqlite:///{tmp_path / 'no' / 'egress.db'}")
    assert "Is a directory" in _refused(f"sqlite:///{tmp_path}")


def test_unwritable_directory() -> None:
    assert "Permission denied" in _refused("sqlite:////sys/egress.db")  # where not even root may make a file


def test_not_created_when_only_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "egress.db"
    assert "egress gateway" in _refused(f"sqlite:///{path}", create=False)
    assert not path.exists()


def test_not_a_database(tmp_path: Path) -> None:
    path = tmp_path / "egress.db"
    path.write_bytes(b"these are not the bytes of a database" * 100)
    assert "not a database" in _refused(f"sqlite:///{path}")
    assert path.read_bytes().startswith(b"these")


def test_another_programs_database(tmp_path: Path) -> None:
    path = tmp_path / "egress.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE places (url TEXT)")
    assert "another program" in _refused(f"sqlite:///{path}")


def test_newer_schema(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    assert "upgrade this program" in _refused(str(engine.url))


@pytest.mark.parametrize("url", ["", "nonsense", "postgresql://h/d", "sqlite://", "sqlite:///:memory:"])
def test_urls_that_name_no_sqlite_file(url: str) -> None:
    with pytest.raises(InputError):
        open_database(url)


def test_the_tables_refuse_values_the_model_does_not_know(engine: Engine) -> None:
    row = "('a', '[]', 'enforce', 'maybe', '[]', '[]', 'netns', 'x', 0)"
    with pytest.raises(IntegrityError), writing(engine) as connection:
        connection.exec_driver_sql(f"INSERT INTO {agents.name} VALUES {row}")


@pytest.mark.parametrize(
    ("address", "network", "inside"),
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("2001:db8::1", "2001:db8::/32", True),
        ("2001:db8::1", "0.0.0.0/0", False),
        ("not an address", "0.0.0.0/0", False),
        ("", "::/0", False),
    ],
)
def test_in_network(address: str, network: str, inside: bool) -> None:
    assert in_network(address, network) is inside
