"""Recorders of several hosts at one database: segments of one name, and checkpoints from before hosts had names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from egress.config import Config
from egress.errors import EgressError
from egress.records.eve import line
from egress.store.database import tables
from egress.store.database.database import writing
from egress.store.recording.recorder import Recorder, checkpoints, lag
from tests.store import samples

NAME = "worker-0-1.jsonl"
Host = Callable[[str, str, int, int], Config]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host with a journal of `count` flows, from number `first` on."""

    def make(url: str, name: str, first: int, count: int) -> Config:
        config = Config(host=name, state_dir=tmp_path / name, database=url)
        config.journal_dir.mkdir(parents=True)
        flows = (samples.numbered(number) for number in range(first, first + count))
        (config.journal_dir / NAME).write_bytes(b"".join(map(line, flows)))
        return config

    return make


def record(config: Config) -> int:
    recorder = Recorder(config)
    try:
        return recorder.run_once()
    finally:
        recorder.close()


def count(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(tables.flows)) or 0


def test_segments_of_one_name_are_two(host: Host, postgresql_url: str) -> None:
    one, two = host(postgresql_url, "gpu-1", 0, 3), host(postgresql_url, "gpu-2", 100, 5)
    assert [record(one), record(two), record(one), record(two)] == [3, 5, 0, 0]
    with (two.journal_dir / NAME).open("ab") as file:
        file.write(line(samples.numbered(200)))
    assert [record(one), record(two)] == [0, 1]
    sizes = {each.host: (each.journal_dir / NAME).stat().st_size for each in (one, two)}
    recorder = Recorder(one)
    assert recorder.offsets() == {NAME: sizes["gpu-1"]}
    recorder.close()


def test_what_was_read_before_hosts_had_names_is_not_read_again(engine: Engine, host: Host, database_url: str) -> None:
    config = host(database_url, "gpu-1", 0, 3)
    record(config)
    with writing(engine) as connection:
        connection.execute(tables.journal_checkpoints.update().values(host=""))
        foreign = {"host": "", "segment": "worker-7-7.jsonl", "offset": 5, "updated": 1.0}
        connection.execute(tables.journal_checkpoints.insert(), foreign)
    assert record(config) == 0
    assert lag(config, engine).unread == 0
    assert checkpoints(engine, "") == {"worker-7-7.jsonl": 5}, "whose journal this is, is not known here"


def test_a_file_keeps_its_place_when_its_host_is_renamed(host: Host, sqlite_url: str) -> None:
    """A server's hosts are renamed by `egress fleet rename`."""
    config = host(sqlite_url, "gpu-1", 0, 3)
    record(config)
    renamed = Config(host="gpu-2", state_dir=config.state_dir, database=config.database)
    assert record(renamed) == 0


def test_a_newer_schema_is_not_written_to(engine: Engine, host: Host, database_url: str) -> None:
    recorder = Recorder(host(database_url, "gpu-1", 0, 3))
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'next'"))
    with pytest.raises(EgressError, match="a newer egress has migrated the database"):
        recorder.run_once()
    recorder.close()
    assert count(engine) == 0
