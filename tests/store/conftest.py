"""A real database for each test that asks for one: each test twice, on SQLite and on PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import Engine

from egress.config import Config
from egress.store.database.database import open_database
from tests.store.postgres import Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A PostgreSQL server with the database `template_egress`, which has our tables."""
    started = Server()
    try:
        open_database(started.new(name="template_egress")).dispose()
        yield started
    finally:
        started.close()


@pytest.fixture
def postgresql_url(server: Server) -> Iterator[str]:
    """A database with our tables."""
    url = server.new("template_egress")
    yield url
    server.drop(url)


@pytest.fixture
def sqlite_url(tmp_path: Path, empty_database: Path) -> str:
    """A file with our tables."""
    return f"sqlite:///{shutil.copy(empty_database, tmp_path / 'egress.db')}"


@pytest.fixture
def new_sqlite_url(tmp_path: Path) -> str:
    """A file that is not there yet."""
    return f"sqlite:///{tmp_path / 'egress.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def config(tmp_path: Path, database_url: str) -> Config:
    """A config with a journal directory, for tests of recording."""
    (tmp_path / "journal").mkdir()
    return Config(state_dir=tmp_path, database=database_url)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    opened = open_database(database_url)
    yield opened
    opened.dispose()


@pytest.fixture
def sqlite_engine(sqlite_url: str) -> Iterator[Engine]:
    """A database for features of SQLite alone."""
    opened = open_database(sqlite_url)
    yield opened
    opened.dispose()


@pytest.fixture
def postgresql_engine(postgresql_url: str) -> Iterator[Engine]:
    """A database for features of PostgreSQL alone."""
    opened = open_database(postgresql_url)
    yield opened
    opened.dispose()
