"""The journal on a real file system, also a full one."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from egress.config import SEGMENT_BYTES
from egress.config import Journal as Settings
from egress.gateway.journal.journal import BACKLOG_BYTES, NO_ROOM, JournalWriter
from egress.model import Reason
from egress.records.read import record_time
from egress.records.seals import is_seal
from egress.records.shape import AnomalyRecord

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs")


def record(number: int, detail: str = "x") -> AnomalyRecord:
    return AnomalyRecord("a", float(number), Reason.MALFORMED, detail, 1)


def healthy(journal: JournalWriter) -> bool:
    """Read the attribute anew each time: mypy believes it keeps the value that an assertion found."""
    return journal.healthy


def stored(directory: Path) -> list[float]:
    """Read the times of all records, in the order of segments and lines; every line must be whole."""
    files = sorted(directory.glob("*.jsonl"), key=lambda path: int(path.stem.rpartition("-")[2]))
    data = b"".join(path.read_bytes() for path in files)
    assert data.endswith(b"\n") or not data
    assert all(json.loads(line) for line in data.splitlines())  # of any length: the journal does not limit it
    return [record_time(line) for line in data.splitlines() if not is_seal(line)]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 64 KiB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_records_are_on_file_when_append_returns(tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path, 3)
    assert journal.append([record(1), record(2)], 100.0)
    assert stored(tmp_path) == [1.0, 2.0]
    assert [path.name for path in tmp_path.iterdir()] == ["worker-3-100000000.jsonl"]
    assert journal.append([], 100.0)
    assert journal.written == 2


def test_segments_turn_by_size_and_by_age_and_when_the_clock_is_set_back(tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path, 0, Settings(segment_bytes=SEGMENT_BYTES, segment_seconds=60.0))
    times = [100.0, 101.0, 102.0, 103.0, 200.0, 50.0]
    for number, ts in enumerate(times):
        assert journal.append([record(number, "d" * (SEGMENT_BYTES // 2))], ts)
    names = sorted(int(path.stem.rpartition("-")[2]) for path in tmp_path.iterdir())
    assert names == [100_000_000, 102_000_000, 200_000_000, 200_000_001], "names keep the order of writing"
    assert stored(tmp_path) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_worker_after_a_clock_set_back_continues_behind_its_predecessors(tmp_path: Path) -> None:
    """Segments are named by time, and the clock was set back between two starts."""
    for ts in (2000.0, 1000.0, 1500.0):
        journal = JournalWriter(tmp_path, 0)
        journal.append([record(int(ts))], ts)
        journal.close()
    JournalWriter(tmp_path, 1).append([record(1)], 1.0)
    assert stored(tmp_path) == [1.0, 2000.0, 1000.0, 1500.0]


def test_an_idle_segment_ends_by_age_and_leaves_one_that_is_empty(tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path, 0, Settings(segment_seconds=60.0))
    journal.append([record(1)], 100.0)
    for ts in (130.0, 161.0, 222.0, 500.0):
        journal.poll(ts)
    _, idle = sorted(tmp_path.iterdir())
    assert [is_seal(line) for line in idle.read_bytes().splitlines()] == [True], "it has the seal that opens it"


def test_a_new_worker_leaves_a_torn_line_alone(tmp_path: Path) -> None:
    old = tmp_path / "worker-0-1000000.jsonl"
    old.write_bytes(b'{"torn')
    JournalWriter(tmp_path, 0).append([record(1)], 2.0)
    assert old.read_bytes() == b'{"torn'
    assert len(list(tmp_path.iterdir())) == 2


def test_no_segment_is_written_through_a_link(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    journal = JournalWriter(tmp_path, 0)
    (tmp_path / "worker-0-1000000.jsonl").symlink_to(target)
    assert not journal.append([record(1)], 1.0)
    assert not target.exists()


def test_a_missing_directory_makes_it_unhealthy_until_it_is_there(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    journal = JournalWriter(directory, 0)
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


def test_it_is_tried_again_also_when_the_clock_was_set_back(tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path / "journal", 0)
    assert not journal.append([record(1)], 10_000.0)
    (tmp_path / "journal").mkdir()
    journal.poll(50.0)
    assert healthy(journal) and stored(tmp_path / "journal") == [1.0]


def test_a_segment_that_somebody_removes_is_noticed(tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path, 0)
    journal.append([record(1)], 1.0)
    next(tmp_path.iterdir()).unlink()
    journal.poll(2.0)
    assert not healthy(journal) and "removed by another program" in journal.error
    assert not journal.append([record(2)], 2.5)
    journal.poll(3.1)
    assert healthy(journal) and stored(tmp_path) == [1.0, 2.0], "unsealed lines are written again"


def test_a_directory_that_somebody_moves_away_is_noticed(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    directory.mkdir()
    journal = JournalWriter(directory, 0)
    journal.append([record(1)], 1.0)
    directory.rename(tmp_path / "elsewhere")
    directory.mkdir()
    journal.poll(2.0)
    assert not healthy(journal) and "removed by another program" in journal.error
    journal.poll(3.1)
    assert healthy(journal) and journal.append([record(2)], 3.2)
    assert stored(directory)[-1] == 2.0


def test_what_the_backlog_cannot_hold_is_counted(tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path / "no", 0)
    big = [record(number, "d" * 1000) for number in range(1000)]
    for _ in range(2 + BACKLOG_BYTES // 1_000_000):
        assert not journal.append(big, 1.0)
    assert journal.lost > 0
    assert journal.lost % 1000 == 0


@needs_root
def test_a_full_disk_loses_nothing_and_tears_nothing(small: Path) -> None:
    journal = JournalWriter(small, 0, Settings(segment_bytes=1 << 30))
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


def test_what_is_granted_is_all_that_is_written(tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path, 0)
    journal.append([record(1)], 1.0)
    (path,) = tmp_path.iterdir()
    size = path.stat().st_size
    assert journal.bytes == size
    granted = size + 2 * len(path.read_bytes().splitlines(keepends=True)[1])
    journal.grant(granted, full=False)
    assert [journal.append([record(number)], 1.0) for number in (2, 3, 4, 5)] == [True, True, False, False]
    assert not healthy(journal) and journal.error == NO_ROOM
    assert journal.waiting == 2
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == granted
    journal.poll(2.5)
    assert not healthy(journal), "there is still no room"
    journal.grant(20 * size, full=False)
    journal.poll(4.0)
    assert healthy(journal) and journal.waiting == journal.lost == 0
    assert stored(tmp_path) == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_full_journal_ends_its_segment_once_so_that_it_can_be_removed(tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path, 0)
    journal.append([record(1)], 1.0)
    for ts in (2.0, 3.0, 4.0):
        journal.grant(1 << 20, full=True)
        journal.poll(ts)
        journal.append([record(int(ts))], ts)
    assert not journal.open and healthy(journal)
    assert len(list(tmp_path.iterdir())) == 2
    assert stored(tmp_path) == [1.0, 2.0, 3.0, 4.0]


def test_what_waits_in_memory_when_it_is_closed_is_counted_as_lost(tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path / "no", 0)
    journal.append([record(1), record(2)], 1.0)
    journal.close()
    assert (journal.waiting, journal.lost) == (0, 2)


# --- to the disk --------------------------------------------------------------------------------------------


class Disk:
    """A disk that counts syncs, and fails on request."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: list[str] = []
        self.broken = False
        self._real = os.fdatasync
        self._names = os.fsync
        monkeypatch.setattr(os, "fdatasync", self._sync)
        monkeypatch.setattr(os, "fsync", self._sync_names)

    def _check(self) -> None:
        if self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _sync_names(self, descriptor: int) -> None:
        self._check()
        self._names(descriptor)

    def _sync(self, descriptor: int) -> None:
        self._check()
        self._real(descriptor)
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        self.synced.append(f"{name}:{os.fstat(descriptor).st_size}")


def test_fsync_never_leaves_it_to_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, journal = Disk(monkeypatch), JournalWriter(tmp_path, 0)
    journal.append([record(1)], 1.0)
    journal.poll(2.0)
    journal.close()
    assert disk.synced == []


def test_fsync_record_has_each_on_the_disk_before_append_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, journal = Disk(monkeypatch), JournalWriter(tmp_path, 0, Settings(fsync="record"))
    for number in range(3):
        assert journal.append([record(number)], 1.0)
        size = next(iter(tmp_path.iterdir())).stat().st_size
        assert disk.synced[number:] == [f"worker-0-1000000.jsonl:{size}"]


def test_what_may_not_be_on_the_disk_is_written_again_into_a_new_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failure the kernel may believe that a page is clean; another fsync would report success."""
    disk, journal = Disk(monkeypatch), JournalWriter(tmp_path, 0, Settings(fsync="record"))
    assert journal.append([record(1)], 1.0)
    disk.broken = True
    assert not journal.append([record(2)], 2.0)
    assert not healthy(journal) and "written to the disk" in journal.error
    assert not journal.append([record(3)], 2.5)
    journal.poll(3.0)
    assert not healthy(journal)
    disk.broken = False
    journal.poll(4.5)
    assert healthy(journal) and journal.waiting == 0
    assert stored(tmp_path) == [1.0, 2.0, 1.0, 2.0, 3.0], "storing one twice changes nothing"
    assert journal.append([record(4)], 5.0)


def test_fsync_second_does_it_beside_the_packet_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, journal = Disk(monkeypatch), JournalWriter(tmp_path, 0, Settings(fsync="second", segment_bytes=SEGMENT_BYTES))
    journal.append([record(1)], 1.0)
    assert disk.synced == []
    journal.poll(2.0)
    assert eventually(lambda: len(disk.synced) == 1)
    journal.poll(3.0)
    journal.append([record(2, "d" * (SEGMENT_BYTES - 300))], 3.5)
    journal.append([record(3)], 3.6)
    journal.close()
    names = [name.partition(":")[0] for name in disk.synced]
    assert names == ["worker-0-1000000.jsonl", "worker-0-1000000.jsonl", "worker-0-3600000.jsonl"]
    assert stored(tmp_path) == [1.0, 2.0, 3.0]


def test_a_disk_that_failed_is_heard_of_a_second_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, journal = Disk(monkeypatch), JournalWriter(tmp_path, 0, Settings(fsync="second"))
    disk.broken = True
    journal.append([record(1)], 1.0)
    journal.poll(2.0)
    journal.append([record(2)], 2.5)  # not handed over yet when the failure is reported

    def failed() -> bool:
        journal.poll(3.0)
        return not healthy(journal)

    assert eventually(failed)
    assert "written to the disk" in journal.error
    assert not journal.append([record(3)], 3.5)
    for ts in (4.5, 5.6, 6.7):
        journal.poll(ts)
        assert not healthy(journal), "the disk still fails"
    disk.broken = False
    journal.poll(8.0)
    assert healthy(journal) and journal.append([record(4)], 8.0)
    journal.poll(9.0)
    assert healthy(journal)
    assert stored(tmp_path) == [1.0, 2.0, 1.0, 2.0, 3.0, 4.0], "storing one twice changes nothing"
    assert len(list(tmp_path.iterdir())) == 2
    journal.close()


def eventually(condition: Callable[[], bool]) -> bool:
    """Wait for a condition that another thread brings about."""
    end = time.monotonic() + 10
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True
