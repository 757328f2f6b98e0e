"""The recorder and what a hostile worker, a clock or a renamed host leaves it: nothing of that stops the rest."""

from __future__ import annotations

import os
import random
import string
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from egress.config import JOURNAL_BYTES, Config, Journal, Retention
from egress.records.eve import line
from egress.records.shape import Record
from egress.store.database import tables
from egress.store.database.database import open_database, storing, writing
from egress.store.policy.gateways import adopt
from egress.store.recording.quarantine import QUARANTINE_BYTES, quarantine_file
from egress.store.recording.recorder import Recorder, _Process, checkpoints
from egress.store.recording.segments import BATCH_BYTES
from egress.store.recording.writer import store
from tests.store import samples
from tests.store.postgres import Server

LETTERS = random.Random(4)
NAME = "worker-0-1.jsonl"
FLOW_KEYS = ("flow_id", "agent", "dst", "rule_id")
FINDING_KEYS = ("finding_id", "flow_id", "agent", "signature")


def _with(record: Record, count: int, *names: str) -> Record:
    fields: dict[str, Any] = {name: _text(count) for name in names}
    return replace(record, **fields)


def _text(count: int, of: str = string.ascii_letters + string.digits) -> str:
    """Text that no compression makes small enough."""
    return "".join(LETTERS.choices(of, k=count))


@pytest.fixture
def config(tmp_path: Path, database_url: str) -> Config:
    (tmp_path / "journal").mkdir()
    return Config(state_dir=tmp_path, database=database_url, host="gpu-1")


@pytest.fixture
def recorder(config: Config) -> Iterator[Recorder]:
    made = Recorder(config, grace=3600.0)
    yield made
    made.close()


def _count(config: Config, table: sa.Table) -> int:
    engine = open_database(config.database_url)
    with engine.connect() as connection:
        number = connection.scalar(sa.select(sa.func.count()).select_from(table))
    engine.dispose()
    return number or 0


@pytest.mark.parametrize(
    "record",
    [
        *(_with(samples.FLOW, 8000, name) for name in FLOW_KEYS),
        *(_with(samples.FINDING, 8000, name) for name in FINDING_KEYS),
        _with(samples.ANOMALY, 8000, "detail"),
        replace(samples.ANOMALY, src="\ud800" * 250),
        _with(samples.PROCESS, 8000, "flow_id"),
    ],
)
def test_what_no_index_can_hold_is_no_record(config: Config, recorder: Recorder, record: Record) -> None:
    (config.journal_dir / NAME).write_bytes(line(record) + line(samples.numbered(7)))
    assert (recorder.run_once(), recorder.garbage) == (1, 1)


def test_the_longest_that_is_a_record_fits_into_each_index(config: Config, recorder: Recorder) -> None:
    flow, finding = _with(samples.FLOW, 256, *FLOW_KEYS), _with(samples.FINDING, 256, *FINDING_KEYS)
    anomaly = _with(_with(samples.ANOMALY, 256, "agent", "src", "dst", "proto"), 1200, "detail")
    (config.journal_dir / NAME).write_bytes(line(flow) + line(finding) + line(anomaly))
    assert (recorder.run_once(), recorder.garbage) == (3, 0)


@pytest.mark.parametrize("name", [b"worker-0-2\xff.jsonl", b"worker-\xff-2.jsonl", "worker-ä-2.jsonl".encode()])
def test_names_that_no_database_could_hold_are_passed_over(config: Config, recorder: Recorder, name: bytes) -> None:
    config.journal_dir.joinpath(os.fsdecode(name)).write_bytes(line(samples.numbered(1)))
    (config.journal_dir / NAME).write_bytes(line(samples.FLOW))
    assert recorder.run_once() == 1


def test_nothing_but_newlines_fills_the_quarantine_no_further_than_its_bound(sqlite_url: str, tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    config = Config(state_dir=tmp_path, database=sqlite_url)
    kept = quarantine_file(config)
    with kept.open("wb") as file:
        file.truncate(QUARANTINE_BYTES - 1000)
    (config.journal_dir / NAME).write_bytes(b"\n" * 1000)
    recorder = Recorder(config)
    recorder.run_once()
    recorder.close()
    assert recorder.garbage == 1000
    assert QUARANTINE_BYTES <= kept.stat().st_size < QUARANTINE_BYTES + 200


def test_a_clock_that_was_set_back_keeps_no_segment_for_ever(config: Config, recorder: Recorder) -> None:
    """The journal would be full until the clock has caught up."""
    old, new = config.journal_dir / NAME, config.journal_dir / "worker-0-2.jsonl"
    old.write_bytes(line(samples.FLOW))
    new.write_bytes(line(samples.numbered(2)))
    os.utime(old, (time.time() + 86_400,) * 2)
    recorder.run_once()
    assert not old.exists() and new.exists()


def test_what_is_left_of_a_worker_that_is_no_more_does_not_keep_the_journal_full(config: Config) -> None:
    """With fewer workers than before no worker begins its next segment."""
    left, used = config.journal_dir / "worker-7-1.jsonl", config.journal_dir / "worker-0-1.jsonl"
    for path in (left, used):
        path.write_bytes(b"".join(line(samples.numbered(number)) for number in range(1000)))
    patient = Recorder(config)
    pressed = Recorder(replace(config, journal=Journal(max_bytes=JOURNAL_BYTES)))
    with used.open("ab"):
        patient.run_once()
        assert left.exists()
        pressed.run_once()
    assert not left.exists() and used.exists()
    for each in (patient, pressed):
        each.close()


@pytest.mark.slow
def test_long_work_is_done_in_pieces_that_lose_nothing(config: Config, recorder: Recorder) -> None:
    flows = b"".join(line(samples.numbered(number)) for number in range(4 * BATCH_BYTES // len(line(samples.FLOW))))
    for worker in (0, 1):
        (config.journal_dir / f"worker-{worker}-1.jsonl").write_bytes(flows)
    pieces = []
    while piece := recorder.run_once(0.0):
        pieces.append(piece)
    assert len(pieces) > 6 and max(pieces) * len(line(samples.FLOW)) < 2 * BATCH_BYTES
    assert sum(pieces) == 2 * flows.count(b"\n")


def test_a_segment_that_cannot_be_recorded_does_not_keep_what_is_old(sqlite_url: str, tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    config = Config(state_dir=tmp_path, database=sqlite_url, retention=Retention(days=1))
    engine = open_database(sqlite_url)
    with storing(engine) as connection:
        store(connection, [samples.FLOW])  # of long ago
    engine.dispose()
    quarantine_file(config).mkdir()
    (config.journal_dir / NAME).write_bytes(b"garbage\n")
    process = _Process(config, beats=False)
    assert not any(process._pass() for _ in range(3))
    process._restart()
    assert _count(config, tables.flows) == 0


def test_checkpoints_of_two_names_of_a_host_become_one(sqlite_url: str, tmp_path: Path) -> None:
    """A recorder of the former name may have ended after the new one had begun."""
    (tmp_path / "journal").mkdir()
    config = Config(state_dir=tmp_path, database=sqlite_url, host="new")
    path = config.journal_dir / NAME
    path.write_bytes(line(samples.FLOW))
    engine = open_database(sqlite_url)

    def both() -> None:
        marks = ({"host": host, "segment": NAME, "offset": 0, "updated": 1.0} for host in ("old", "new"))
        with writing(engine) as connection:
            connection.execute(tables.journal_checkpoints.delete())
            connection.execute(tables.journal_checkpoints.insert(), list(marks))

    both()
    recorder = Recorder(config)
    assert recorder.run_once() == 1
    recorder.close()
    assert checkpoints(engine, "new") == {NAME: path.stat().st_size} and not checkpoints(engine, "old")
    both()
    with writing(engine) as connection:
        adopt(connection, "new", None)
    assert not checkpoints(engine, "old") and not checkpoints(engine, "new")  # read again
    engine.dispose()


def test_a_schema_whose_name_must_be_quoted(server: Server, tmp_path: Path) -> None:
    url = server.new()
    name = url.rpartition("/")[2]
    server.execute('CREATE SCHEMA "Egress 1"', f'ALTER DATABASE {name} SET search_path = "Egress 1"', database=name)
    (tmp_path / "journal").mkdir()
    recorder = Recorder(Config(state_dir=tmp_path, database=url))
    for number in (1, 2):  # the day is made, then found
        flow = samples.numbered(number, start=time.time(), updated=time.time())
        (tmp_path / "journal" / f"worker-0-{number}.jsonl").write_bytes(line(flow))
        assert recorder.run_once() == 1
    recorder.close()
    engine = open_database(url)
    with engine.connect() as connection:
        other = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'flows' AND collation_name IS NULL"
        assert connection.scalar(sa.text(f"{other} AND data_type = 'text'")) == 0
    engine.dispose()
    server.drop(url)
