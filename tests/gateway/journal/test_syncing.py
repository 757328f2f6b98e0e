"""The thread that waits for the disk: files are handed over, errors come back, descriptors are closed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from egress.gateway.journal.syncing import Syncer, sync_directory


def is_open(descriptor: int) -> bool:
    return Path(f"/proc/self/fd/{descriptor}").exists()


def test_a_file_that_is_done_is_synced_and_closed(tmp_path: Path) -> None:
    syncer = Syncer(tmp_path)
    descriptor = os.open(tmp_path / "journal", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, b"a line\n")
    syncer.written(descriptor)
    syncer.second()
    assert is_open(descriptor), "the writer goes on with it"
    syncer.done(descriptor)
    syncer.close()
    assert not is_open(descriptor)


def test_what_does_not_reach_the_disk_is_raised_once(tmp_path: Path) -> None:
    syncer = Syncer(tmp_path)
    reader, writer = os.pipe()  # fdatasync of a pipe fails: EINVAL
    syncer.written(writer)
    syncer.second()
    with pytest.raises(OSError, match="Invalid argument"):
        syncer.close()
    syncer.second()
    os.close(reader)
    os.close(writer)


def test_a_file_that_is_closed_elsewhere_is_not_handed_over(tmp_path: Path) -> None:
    syncer = Syncer(tmp_path)
    syncer.written(12345)  # no open descriptor: it could not be duplicated
    syncer.forget()
    syncer.second()
    syncer.close()


def test_without_work_there_is_no_thread(tmp_path: Path) -> None:
    """A thread would keep the privileges of the moment at which it starts."""
    syncer = Syncer(tmp_path)
    syncer.second()
    assert syncer._thread is None
    syncer.close()


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    sync_directory(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync_directory(tmp_path / "none")
