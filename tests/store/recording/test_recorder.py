"""The recorder: every whole line once, nothing twice, whatever else lies in the journal and whenever it is killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from egress.config import Config
from egress.errors import EgressError, InputError
from egress.records.eve import line
from egress.records.shape import FlowRecord, Record
from egress.store.database import tables
from egress.store.database.database import open_database
from egress.store.recording.recorder import ARGUMENTS, Recorder, checkpoints, config_line, lag, main, parse_config
from egress.store.recording.segments import BATCH_BYTES, whole_lines
from tests.store import samples
from tests.store.postgres import PASSWORD, Server

ROOT = Path(__file__).parents[3]


@pytest.fixture
def sqlite_config(tmp_path: Path, new_sqlite_url: str) -> Config:
    (tmp_path / "journal").mkdir()
    return Config(state_dir=tmp_path, database=new_sqlite_url)


@pytest.fixture
def recorder(config: Config) -> Iterator[Recorder]:
    made = Recorder(config, grace=0.0)
    yield made
    made.close()


def _segment(config: Config, start: int, data: bytes, worker: int = 0) -> Path:
    path = config.journal_dir / f"worker-{worker}-{start}.jsonl"
    with path.open("ab") as file:
        file.write(data)
    return path


def _age(path: Path) -> None:
    os.utime(path, (1, 1))


def _stored(config: Config, table: sa.Table = tables.flows) -> list[sa.Row[*tuple[Any, ...]]]:
    engine = open_database(config.database_url)
    with engine.connect() as connection:
        rows = list(connection.execute(sa.select(table).order_by(*table.primary_key.columns)))
    engine.dispose()
    return rows


def _flows(config: Config) -> list[FlowRecord]:
    return [FlowRecord(*row) for row in _stored(config)]


def _aside(config: Config) -> list[dict[str, object]]:
    path = config.state_dir / "quarantine.jsonl"
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def test_each_kind_goes_into_its_table(config: Config, recorder: Recorder) -> None:
    records: list[Record] = [samples.FLOW, samples.FINDING, samples.ANOMALY, samples.EVIDENCE]
    _segment(config, 1, b"".join(map(line, records)))
    assert recorder.run_once() == 4
    assert recorder.run_once() == 0
    for table in (tables.flows, tables.findings, tables.anomalies, tables.evidence):
        assert len(_stored(config, table)) == 1


def test_nothing_to_do_without_a_journal(tmp_path: Path) -> None:
    recorder = Recorder(Config(state_dir=tmp_path))
    assert recorder.run_once() == 0
    recorder.close()


def test_a_torn_tail_waits_for_its_rest(config: Config, recorder: Recorder) -> None:
    raw = line(samples.FLOW)
    _segment(config, 1, raw + raw[:50])
    assert recorder.run_once() == 1
    assert recorder.run_once() == 0
    _segment(config, 1, raw[50:])
    assert recorder.run_once() == 1
    assert recorder.garbage == 0


def test_a_dead_workers_torn_tail_is_skipped_and_kept_aside(config: Config, recorder: Recorder) -> None:
    raw = line(samples.FLOW)
    _segment(config, 1, raw + raw[:50])
    _segment(config, 2, line(samples.numbered(2)))
    assert recorder.run_once() == 2
    assert recorder.garbage == 1
    assert [(entry["error"], entry["line"]) for entry in _aside(config)] == [("torn line", raw[:50].decode())]


def test_another_workers_segment_is_no_successor(config: Config, recorder: Recorder) -> None:
    raw = line(samples.FLOW)
    _segment(config, 1, raw[:50])
    _segment(config, 2, b"", worker=1)
    recorder.run_once()
    _segment(config, 1, raw[50:])
    assert recorder.run_once() == 1


def test_a_segment_still_open_is_not_finished_whatever_its_name_says(config: Config, recorder: Recorder) -> None:
    """The clock was set back: the worker's present segment has the smaller number."""
    _segment(config, 2, b"")
    raw = line(samples.FLOW)
    path = config.journal_dir / "worker-0-1.jsonl"
    with path.open("ab", buffering=0) as file:
        file.write(raw[:50])
        _age(path)
        assert recorder.run_once() == 0
        file.write(raw[50:])
        _age(path)
        assert recorder.run_once() == 1
        assert path.exists()
    recorder.run_once()
    assert not path.exists()


def test_garbage_is_counted_and_kept_aside(config: Config, recorder: Recorder) -> None:
    garbage = [b"\xff\x00garbage", b"{}", b"", b'{"event_type":"flow"}']
    _segment(config, 1, b"\n".join([line(samples.FLOW)[:-1], *garbage, line(samples.numbered(2))]))
    assert recorder.run_once() == 2
    assert recorder.garbage == len(garbage)
    assert [str(entry["line"]).encode("latin-1") for entry in _aside(config)] == garbage
    assert recorder.run_once() == 0 and recorder.garbage == len(garbage)


def test_a_line_without_end_does_not_stop_the_rest(config: Config, recorder: Recorder) -> None:
    _segment(config, 1, b"x" * (2 * BATCH_BYTES + 7) + b"\n" + line(samples.FLOW))
    assert recorder.run_once() == 1
    assert _flows(config) == [samples.FLOW]


def test_quarantine_is_bounded(config: Config, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egress.store.recording.quarantine.QUARANTINE_BYTES", 100)
    for _ in range(5):
        _segment(config, 1, b"garbage\n")
        recorder.run_once()
    assert recorder.garbage == 5
    assert len(_aside(config)) < 5


def test_links_and_pipes_are_passed_over(config: Config, recorder: Recorder, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret\n")
    (config.journal_dir / "worker-0-1.jsonl").symlink_to(secret)
    os.mkfifo(config.journal_dir / "worker-0-2.jsonl")
    (config.journal_dir / "worker-0-3.jsonl").mkdir()
    _segment(config, 4, line(samples.FLOW))
    assert recorder.run_once() == 1
    assert _aside(config) == []


def test_finished_segments_go_after_the_grace(config: Config, recorder: Recorder) -> None:
    old, new = _segment(config, 1, line(samples.FLOW)), _segment(config, 2, line(samples.numbered(2)))
    patient = Recorder(config, grace=3600.0)
    patient.run_once()
    patient.close()
    assert old.exists()
    _age(old)
    _age(new)
    recorder.run_once()
    assert not old.exists() and new.exists()
    assert [row.segment for row in _stored(config, tables.journal_checkpoints)] == [new.name]
    assert len(_flows(config)) == 2


def test_reading_it_all_again_changes_nothing(config: Config, recorder: Recorder) -> None:
    """A checkpoint lost with a restored backup, say."""
    ended = replace(samples.FLOW, end=samples.START + 9, updated=samples.START + 9, packets_out=99)
    records: list[Record] = [samples.FLOW, samples.FINDING, samples.ANOMALY, ended, samples.EVIDENCE]
    _segment(config, 1, b"".join(map(line, records)))
    recorder.run_once()
    engine = open_database(config.database_url)
    with engine.begin() as connection:
        connection.execute(tables.journal_checkpoints.delete())
    engine.dispose()
    again = Recorder(config)
    assert again.run_once() == 5
    again.close()
    assert _flows(config) == [ended]
    assert len(_stored(config, tables.findings)) == len(_stored(config, tables.anomalies)) == 1


def test_lag_counts_what_is_not_stored(config: Config, recorder: Recorder) -> None:
    raw = line(samples.FLOW)
    engine = open_database(config.database_url)
    _segment(config, 1, raw + b"torn")
    assert lag(config, engine).unread == len(raw) + 4
    recorder.run_once()
    facts = lag(config, engine)
    assert (facts.segments, facts.unread, facts.quarantined) == (1, 4, 0)
    engine.dispose()


def test_a_full_batch_is_cut_at_a_line(config: Config, recorder: Recorder) -> None:
    count = BATCH_BYTES // len(line(samples.numbered(1))) * 2 + 10
    _segment(config, 1, b"".join(line(samples.numbered(number)) for number in range(count)))
    assert recorder.run_once() == count
    assert len(_flows(config)) == count


@pytest.mark.parametrize(
    ("data", "last", "expected"),
    [
        (b"", False, ([], b"")),
        (b"a\nb", False, ([b"a"], b"")),
        (b"a\nb", True, ([b"a"], b"b")),
        (b"\n\r\n", True, ([b"", b"\r"], b"")),
    ],
)
def test_whole_lines(data: bytes, last: bool, expected: tuple[list[bytes], bytes]) -> None:
    assert whole_lines(data, last=last) == expected


# --- the process -------------------------------------------------------------------------------------------


def _start(config: Config) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        ARGUMENTS, cwd="/", env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    process.stdin.write(config_line(config))
    process.stdin.flush()
    return process


def _until(condition: object, seconds: float = 20.0) -> bool:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_config_travels_as_one_line(tmp_path: Path) -> None:
    config = Config(state_dir=tmp_path, policy=tmp_path / "p.yaml")
    assert parse_config(config_line(config)) == config
    for text in ("", "[]", "[" * 100_000, '{"no": 1}'):
        with pytest.raises(InputError):
            parse_config(text)


def test_sigterm_ends_it_after_a_last_look(config: Config) -> None:
    process = _start(config)
    _segment(config, 1, line(samples.FLOW))
    assert _until(lambda: lag_of(config) == 0)
    for number in range(2, 50):
        _segment(config, 1, line(samples.numbered(number)))
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (0, "")
    assert len(_flows(config)) == 49


def lag_of(config: Config) -> int:
    """Unread bytes, as doctor would see them."""
    try:
        engine = open_database(config.database_url, create=False)
    except EgressError:
        return -1
    unread = lag(config, engine).unread
    engine.dispose()
    return unread


def test_a_broken_database_is_said_once_and_tried_again(sqlite_config: Config) -> None:
    config = sqlite_config
    database = config.state_dir / "egress.db"
    database.write_bytes(b"not a database at all" * 100)
    _segment(config, 1, line(samples.FLOW))
    process = _start(config)
    assert process.stderr is not None
    said = process.stderr.readline()
    assert "not a database" in said and str(config.journal_dir) in said
    database.unlink()
    assert _until(lambda: lag_of(config) == 0)
    process.terminate()
    assert process.communicate(timeout=20)[1] == ""
    assert _flows(config) == [samples.FLOW]


@pytest.mark.slow
def test_a_server_that_is_away_is_said_once_and_tried_again(
    server: Server, postgresql_url: str, tmp_path: Path
) -> None:
    (tmp_path / "journal").mkdir()
    config = Config(state_dir=tmp_path, database=postgresql_url)
    process = _start(config)
    assert process.stderr is not None
    _segment(config, 1, line(samples.FLOW))
    assert _until(lambda: lag_of(config) == 0)
    server.stop()
    _segment(config, 1, line(samples.numbered(2)))
    said = process.stderr.readline()
    assert str(config.journal_dir) in said and PASSWORD not in said
    server.start()
    assert _until(lambda: lag_of(config) == 0)
    assert PASSWORD not in Path(f"/proc/{process.pid}/cmdline").read_text()
    process.terminate()
    assert process.communicate(timeout=20)[1] == ""
    assert len(_flows(config)) == 2


def test_it_ends_with_its_parent(sqlite_config: Config) -> None:
    code = (
        "import subprocess, sys, time; child = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, text=True);"
        "child.stdin.write(sys.argv[1]); child.stdin.flush(); print(child.pid, flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, config_line(sqlite_config), *ARGUMENTS]
    parent = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = Path(f"/proc/{int(parent.stdout.readline())}")
    assert _until((sqlite_config.state_dir / "egress.db").exists)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert _until(lambda: not child.exists() or "Z" in (child / "stat").read_text().rpartition(")")[2][:3])


@pytest.mark.slow
def test_killed_at_any_moment_it_stores_exactly_what_was_journalled(config: Config) -> None:
    """kill -9 of a process, a dozen times, each soon after its first progress and with more coming in."""
    dice = random.Random(7)
    written: dict[str, FlowRecord] = {}
    number = 0
    for start in range(1, 13):
        # Forked, not started: a dozen starts of Python would take longer than everything else here.
        process = multiprocessing.get_context("fork").Process(target=main, args=(config_line(config),))
        process.start()
        watching = open_database(config.database_url)
        before = checkpoints(watching, config.host_name)
        end = time.monotonic() + 20
        moved = False
        while time.monotonic() < end:
            for number in range(number + 1, number + 21):  # noqa: B020 - counts on
                flow = samples.numbered(number % 500, updated=samples.START + number, packets_out=number)
                raw = line(flow) + line(replace(samples.FINDING, finding_id=f"{number:016x}"))
                cut = dice.randrange(len(raw))
                _segment(config, start // 3, raw[:cut])
                _segment(config, start // 3, raw[cut:])
                written[flow.flow_id] = flow
            if not moved and checkpoints(watching, config.host_name) != before:
                moved = True
                end = time.monotonic() + dice.uniform(0.0, 0.15)
        process.kill()
        process.join()
        watching.dispose()
        assert moved and process.exitcode == -signal.SIGKILL
        if start % 3 == 2:  # the worker dies, too, in the middle of a line; its next one begins a new segment
            _segment(config, start // 3, line(samples.FLOW)[:77])
    recorder = Recorder(config, grace=0.0)
    recorder.run_once()
    recorder.close()
    assert {flow.flow_id: flow for flow in _flows(config)} == written
    ids = [row.finding_id for row in _stored(config, tables.findings)]
    assert ids == [f"{each:016x}" for each in range(1, number + 1)]
    assert number > 500
