"""The lag of the recorder: its size, its report, and the order in which segments are stored."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from egress.config import JOURNAL_BYTES, Config, Journal
from egress.records.eve import line
from egress.records.shape import FlowRecord
from egress.store.database.database import open_database
from egress.store.query import reader
from egress.store.recording.recorder import ARGUMENTS, BEATS, Recorder, behind, checkpoints, config_line
from egress.store.recording.segments import Segment, read
from tests.store import samples

ROOT = Path(__file__).parents[3]


@pytest.fixture
def recorder(config: Config) -> Iterator[Recorder]:
    made = Recorder(config, grace=3600.0)
    yield made
    made.close()


def segment(config: Config, start: int, data: bytes, worker: int = 0) -> Path:
    path = config.journal_dir / f"worker-{worker}-{start}.jsonl"
    path.write_bytes(data)
    return path


def stored(config: Config) -> list[FlowRecord]:
    engine = open_database(config.database_url)
    try:
        return list(reader.flows(engine, reader.Filter()))
    finally:
        engine.dispose()


def behind_of(config: Config) -> int:
    engine = open_database(config.database_url)
    try:
        return behind(config, checkpoints(engine, config.host_name)).unread
    finally:
        engine.dispose()


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_lag_in_seconds_is_the_age_of_the_oldest_record_that_is_not_stored(config: Config, recorder: Recorder) -> None:
    now = time.time()
    first, second = (replace(samples.FLOW, updated=now - age) for age in (3000.0, 1000.0))
    assert behind(config, {}).seconds == 0.0
    path = segment(config, 1, line(first) + line(second))
    assert behind(config, {}).seconds == pytest.approx(3000.0, abs=5)
    assert behind(config, {path.name: len(line(first))}).seconds == pytest.approx(1000.0, abs=5)
    assert behind(config, {path.name: 7}).seconds == pytest.approx(0.0, abs=5), "no record begins there: by the file"
    assert behind(config, {path.name: path.stat().st_size}).seconds == 0.0


def test_what_a_writer_wrote_later_is_stored_later_also_when_a_segment_cannot_be_read(
    config: Config, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for start in (1, 2):
        for worker in (0, 1):
            segment(config, start, line(samples.numbered(10 * worker + start)), worker)

    def failing(segment: Segment, offset: int) -> bytes:
        if segment.name == "worker-0-1.jsonl":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(segment.path))
        return read(segment, offset)

    monkeypatch.setattr("egress.store.recording.recorder.read", failing)
    assert recorder.run_once() == 2
    assert "worker-0-1.jsonl" in recorder.trouble
    assert {flow.flow_id for flow in stored(config)} == {f"{number:016x}" for number in (11, 12)}
    monkeypatch.undo()
    assert recorder.run_once() == 2 and recorder.trouble == ""


def test_grace_is_short_while_the_journal_is_half_full(config: Config) -> None:
    """Segments that are stored already would keep new flows out."""
    pressed = Recorder(replace(config, journal=Journal(max_bytes=JOURNAL_BYTES)), grace=3600.0)
    old = segment(config, 1, b"".join(line(samples.numbered(number)) for number in range(1000)))
    assert old.stat().st_size > JOURNAL_BYTES // 2
    segment(config, 2, line(samples.FLOW))
    pressed.run_once()
    assert not old.exists()
    pressed.close()


def test_it_says_each_second_how_far_it_is_and_ends_when_nobody_listens(config: Config) -> None:
    raw = line(samples.FLOW)
    segment(config, 1, raw + b"{}\n" + raw[:20])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*ARGUMENTS, BEATS], cwd="/", env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(config_line(config))
    process.stdin.flush()
    facts = json.loads(process.stdout.readline())
    age = time.time() - config.journal_dir.joinpath("worker-0-1.jsonl").stat().st_mtime
    assert 0.0 <= facts.pop("seconds") <= age + 1
    assert facts == {"stored": 1, "garbage": 1, "trouble": "", "segments": 1, "unread": 20}
    process.stdout.close()
    segment(config, 2, line(samples.numbered(2)))
    assert eventually(lambda: behind_of(config) == 0)
    process.terminate()
    process.stdin.close()
    assert process.wait(20) == 0
