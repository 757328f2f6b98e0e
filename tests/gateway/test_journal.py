"""The journal on a real file system, also a full one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from egress.everead import parse_line
from egress.gateway.journal import BACKLOG_BYTES, Journal
from egress.model import AnomalyRecord, Reason

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs")


def record(number: int, detail: str = "x") -> AnomalyRecord:
    return AnomalyRecord("a", float(number), Reason.MALFORMED, detail, 1)


def healthy(journal: Journal) -> bool:
    """Asked anew each time: mypy believes an attribute stays what an assertion found."""
    return journal.healthy


def stored(directory: Path) -> list[float]:
    """Times of all records, in the order of segments and lines; every line has to be whole."""
    files = sorted(directory.glob("*.jsonl"), key=lambda path: int(path.stem.rpartition("-")[2]))
    data = b"".join(path.read_bytes() for path in files)
    assert data.endswith(b"\n") or not data
    return [getattr(parse_line(line), "time") for line in data.splitlines()]  # noqa: B009 - of a union


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_records_are_on_file_when_append_returns(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 3)
    assert journal.append([record(1), record(2)], 100.0)
    assert stored(tmp_path) == [1.0, 2.0]
    assert [path.name for path in tmp_path.iterdir()] == ["worker-3-100000000.jsonl"]
    assert journal.append([], 100.0)
    assert journal.written == 2


def test_segments_turn_by_size_and_by_age_and_when_the_clock_is_set_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 0, segment_bytes=300, segment_seconds=60.0)
    times = [100.0, 101.0, 102.0, 103.0, 200.0, 50.0]
    for number, ts in enumerate(times):
        assert journal.append([record(number)], ts)
    names = sorted(int(path.stem.rpartition("-")[2]) for path in tmp_path.iterdir())
    assert len(names) >= 4
    assert {50_000_000, 100_000_000, 200_000_000} <= set(names)
    assert sorted(stored(tmp_path)) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_new_worker_leaves_a_torn_line_alone(tmp_path: Path) -> None:
    old = tmp_path / "worker-0-1000000.jsonl"
    old.write_bytes(b'{"torn')
    Journal(tmp_path, 0).append([record(1)], 2.0)
    assert old.read_bytes() == b'{"torn'
    assert len(list(tmp_path.iterdir())) == 2


def test_no_segment_is_written_through_a_link(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    (tmp_path / "worker-0-1000000.jsonl").symlink_to(target)
    journal = Journal(tmp_path, 0)
    assert not journal.append([record(1)], 1.0)
    assert not target.exists()


def test_a_missing_directory_makes_it_unhealthy_until_it_is_there(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    journal = Journal(directory, 0)
    assert not journal.append([record(1)], 10.0)
    assert not healthy(journal)
    assert "No such file" in journal.error
    assert not journal.append([record(2)], 10.1)
    directory.mkdir()
    journal.poll(10.5)
    assert not healthy(journal), "tried again before its time"
    journal.poll(11.0)
    assert healthy(journal)
    assert journal.append([record(3)], 11.1)
    assert stored(directory) == [1.0, 2.0, 3.0]


def test_what_the_backlog_cannot_hold_is_counted(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "no", 0)
    big = [record(number, "d" * 1000) for number in range(1000)]
    for _ in range(2 + BACKLOG_BYTES // 1_000_000):
        assert not journal.append(big, 1.0)
    assert journal.lost > 0
    assert journal.lost % 1000 == 0


@needs_root
def test_a_full_disk_loses_nothing_and_tears_nothing(small: Path) -> None:
    journal = Journal(small, 0, segment_bytes=1 << 30)
    number, done = 0, True
    while done:
        number += 1
        done = journal.append([record(number)], 5.0)
        assert number < 5000
    assert not healthy(journal)
    assert journal.failures == 1
    kept = number + 10
    while number < kept:
        number += 1
        assert not journal.append([record(number)], 5.1)
    journal.poll(7.0)
    assert not healthy(journal), "there is still no room"
    assert journal.failures == 2
    subprocess.run(["mount", "-o", "remount,size=1m", str(small)], check=True)
    journal.poll(9.0)
    assert healthy(journal)
    assert journal.append([record(number + 1)], 9.1)
    assert stored(small) == [float(value) for value in range(1, number + 2)]
    assert journal.lost == 0
    journal.close()
