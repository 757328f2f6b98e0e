"""The worker's journal: records as JSON lines, written before the kernel is answered.

Segments `<directory>/worker-<index>-<start µs>.jsonl` belong to one worker process each, are only appended to, and are
taken up and removed by the recorder. A line without its newline at the end of a dead worker's segment was not acted on.
Durability: data is in the kernel's page cache once `append` returns, so it survives the worker's death, not the host's.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from egress.eve import line
from egress.model import Record

SEGMENT_BYTES = 16 * 1024 * 1024
SEGMENT_SECONDS = 3600.0
BACKLOG_BYTES = 4 * 1024 * 1024  # kept in memory while the disk refuses; past it lines are lost, and counted
RETRY_SECONDS = 1.0


class Journal:
    """Append-only segments of one worker. While `healthy` is False nothing reaches the disk: pass nothing new."""

    def __init__(
        self,
        directory: Path,
        index: int,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        segment_seconds: float = SEGMENT_SECONDS,
    ) -> None:
        self.healthy = True
        self.error = ""
        self.written = self.failures = self.lost = 0
        self._directory, self._index = directory, index
        self._segment_bytes, self._segment_seconds = segment_bytes, segment_seconds
        self._file = -1
        self._size, self._opened, self._retry = 0, 0.0, 0.0
        self._backlog: deque[bytes] = deque()
        self._backlog_bytes = 0
        self._torn = False  # the segment ends in the beginning of a line: its rest must follow

    def append(self, records: Iterable[Record], ts: float) -> bool:
        """Write the records of one packet with one write(2). False: they are not on file (kept for later, or lost)."""
        data = b"".join(map(line, records))
        if not data:
            return True
        if self.healthy:
            data = self._write(data, ts)
        if not data:
            return True
        self._keep(data)
        return False

    def poll(self, ts: float) -> None:
        """Try again what could not be written; call it about each second."""
        if not self.healthy and ts >= self._retry:
            self._recover(ts)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _write(self, data: bytes, ts: float) -> bytes:
        """Returns what is left: nothing, or from the first byte that could not be written."""
        try:
            self._rotate(ts)
            done = os.write(self._file, data)
        except OSError as error:
            return self._fail(error.strerror or str(error), data, ts)
        self._size += done
        self._torn = done < len(data)
        if self._torn:
            return self._fail("short write: disk full?", data[done:], ts)
        self.written += data.count(b"\n")
        return b""

    def _rotate(self, ts: float) -> None:
        due = self._size >= self._segment_bytes or not 0 <= ts - self._opened < self._segment_seconds
        if self._file >= 0 and (self._torn or not due):
            return
        self.close()
        path = self._directory / f"worker-{self._index}-{round(ts * 1e6)}.jsonl"
        self._file = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640
        )
        self._size, self._opened = 0, ts

    def _fail(self, why: str, left: bytes, ts: float) -> bytes:
        self.healthy = False
        self.error = why
        self.failures += 1
        self._retry = ts + RETRY_SECONDS
        return left

    def _keep(self, data: bytes) -> None:
        if self._backlog_bytes + len(data) > BACKLOG_BYTES:
            self.lost += data.count(b"\n")
            return
        self._backlog.append(data)
        self._backlog_bytes += len(data)

    def _recover(self, ts: float) -> None:
        """Write the backlog in order. A rest of a line continues in the segment that holds its beginning."""
        while self._backlog:
            data = self._backlog[0]
            left = self._write(data, ts)
            self._backlog_bytes -= len(data) - len(left)
            if left:
                self._backlog[0] = left
                return
            self._backlog.popleft()
        self.healthy = True
        self.error = ""
