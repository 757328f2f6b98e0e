"""Sync a journal to the disk off the packet path: a thread waits for the disk, the worker does not."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from pathlib import Path

CLOSE_SECONDS = 5.0


def sync_directory(directory: Path) -> None:
    """Sync a directory: afterwards the names of its new files are on the disk. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Syncer:
    """Syncs the files of a journal, one at a time, in a thread.

    Call `written` after each write, `second` each second, and at a file's end `done` or, if it failed, `forget`.

    The thread starts with the first work: by then the process has dropped its privileges, which each thread has for
    itself.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._work: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._dirty = -1  # a file with bytes that may not be on the disk
        self._waiting = 0  # files handed over; only the worker writes this, only the thread `_finished`
        self._finished = 0
        self._errors: deque[OSError] = deque()

    def written(self, descriptor: int) -> None:
        """Note that the file has bytes that are not on the disk yet."""
        self._dirty = descriptor

    def second(self) -> None:
        """Have the file synced if it was written and no sync is under way. Raises OSError for an earlier failure."""
        self._complain()
        if self._dirty >= 0 and self._waiting == self._finished:  # else the disk is busy: a later second tries again
            self._hand_over(os.dup(self._dirty))
            self._dirty = -1

    def forget(self) -> None:
        """Forget the file without a sync. The caller closes it."""
        self._dirty = -1

    def done(self, descriptor: int) -> None:
        """Take over an ended file: the syncer syncs and closes it."""
        if self._dirty == descriptor:
            self._dirty = -1
        self._hand_over(descriptor)

    def close(self) -> None:
        """Wait, at most CLOSE_SECONDS, until all files are synced. Raises OSError for a sync that failed."""
        if self._thread is not None:
            self._work.put(None)
            self._thread.join(CLOSE_SECONDS)
        self._complain()

    def _complain(self) -> None:
        if self._errors:
            error = self._errors.pop()
            self._errors.clear()
            raise error

    def _hand_over(self, descriptor: int) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="fsync", daemon=True)
            self._thread.start()
        self._waiting += 1
        self._work.put(descriptor)

    def _run(self) -> None:
        while (descriptor := self._work.get()) is not None:
            try:
                os.fdatasync(descriptor)
                sync_directory(self._directory)
            except OSError as error:
                self._errors.append(error)
            finally:
                os.close(descriptor)
                self._finished += 1
