"""The journal of a worker or of attribution: records as JSON lines; a worker writes them before it answers the kernel.

Segments `<directory>/worker-<index>-<start µs>.jsonl` belong to one worker process each and are only appended to. The
recorder reads and removes them. A last line without newline was cut off by the worker's death: its packet was not
answered. The segments of `egress.gateway.attribution` are called `process-0-…`.

Durability: once `append` returns, the data is in the kernel's page cache, which survives the worker's death but not the
host's; with `fsync: second` it is on the disk about a second later, with `fsync: record` before `append` returns.

The supervisor knows all journals and grants how much each may write (`egress.gateway.supervisor.journals`).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from egress import config
from egress.gateway.journal.syncing import Syncer, sync_directory
from egress.records.eve import line
from egress.records.shape import Record
from egress.store.recording.segments import newest, segment_name

BACKLOG_BYTES = 4 * 1024 * 1024  # kept in memory while the disk fails; further lines are lost, and counted
RETRY_SECONDS = 1.0
NO_ROOM = "journal.max_bytes is reached"
UNBOUNDED = 1 << 62


class JournalWriter:
    """The append-only segments of one writer. While it is not `open` no new flow should pass: records may be lost."""

    def __init__(
        self, directory: Path, index: int, settings: config.Journal | None = None, *, writer: str = "worker"
    ) -> None:
        settings = settings or config.Journal()
        self.healthy = True  # appended lines reach the file
        self.full = False  # the remaining bytes are for flows that have begun
        self.error = ""
        self.written = self.failures = self.lost = self.waiting = 0  # lines, except `failures`
        self.bytes = 0  # written by this process
        self._directory, self._writer = directory, f"{writer}-{index}"
        self._segment_bytes, self._segment_seconds = settings.segment_bytes, settings.segment_seconds
        self._each = settings.fsync == "record"
        self._syncer = Syncer(directory) if settings.fsync == "second" else None
        self._file, self._path = -1, directory
        self._size, self._retry = 0, 0.0
        self._turn_at = 0  # bytes at which a new segment begins; 0: now
        self._opened = self._until = 0.0
        self._last = newest(directory, self._writer)  # names keep the order in which segments began
        self._limit = UNBOUNDED
        self._backlog: deque[bytes] = deque()
        self._backlog_bytes = 0
        self._suspect = False  # the disk failed: it must prove that it works again
        self._torn = False  # the segment ends inside a line: the rest of it must follow

    @property
    def open(self) -> bool:
        return self.healthy and not self.full

    def append(self, records: Iterable[Record], ts: float) -> bool:
        """Write the records of one packet with one write(2). False: they are not on file (kept in memory, or lost)."""
        data = b"".join(map(line, records))
        if not data:
            return True
        if self.healthy:
            data = self._write(data, ts)
        if not data:
            return self.healthy
        self._keep(data)
        return False

    def grant(self, limit: int, *, full: bool) -> None:
        """Set how many bytes this process may write in all. `full`: no new flow should pass.

        When `full` begins, the next write or poll ends the segment: the recorder can remove ended segments only.
        """
        if full and not self.full:
            self._turn_at = 0
        self._limit, self.full = limit, full

    def poll(self, ts: float) -> None:
        """Write the backlog, if any; end a segment that is due; sync; notice failures. Call it about once a second."""
        if not self.healthy:
            if not self._retry - RETRY_SECONDS <= ts < self._retry:  # also when the clock was set back
                self._recover(ts)
            return
        if self._file >= 0 and self._displaced():
            self._spoil()
            self._fail("its segment was removed by another program, with its records", b"", ts)
            return
        try:
            if self._size and self._due(ts):
                self._rotate(ts)
        except OSError as error:
            self._fail(error.strerror or str(error), b"", ts)
        try:
            if self._syncer is not None:
                self._syncer.second()
        except OSError as error:
            self._spoil()
            self._fail(f"cannot be written to the disk: {error.strerror}", b"", ts)

    def close(self) -> None:
        """Close the file. Lines that still wait in memory are lost."""
        self.lost += self.waiting
        self._forget_backlog()
        try:
            self._leave()
            if self._syncer is not None:
                self._syncer.close()
        except OSError as error:
            self.healthy, self.error = False, f"cannot be written to the disk: {error.strerror}"

    def _write(self, data: bytes, ts: float) -> bytes:
        """Write as much as possible. Returns the rest, from the first byte that could not be written."""
        if self.bytes + len(data) > self._limit:
            return self._fail(NO_ROOM, data, ts)
        try:
            if self._size >= self._turn_at or not self._opened <= ts < self._until:  # `_due`, without a call
                self._rotate(ts)
            done = os.write(self._file, data)
        except OSError as error:
            return self._fail(error.strerror or str(error), data, ts)
        self._size += done
        self.bytes += done
        continued, self._torn = self._torn, done < len(data)
        if self._torn:
            self.written += data[:done].count(b"\n")
            return self._fail("short write: disk full?", data[done:], ts)
        self.written += data.count(b"\n")
        if self._syncer is not None:
            self._syncer.written(self._file)
        elif self._each:
            return self._sync(b"" if continued else data, ts)
        return b""

    def _displaced(self) -> bool:
        """Return True if the open segment is not at its path any more: the recorder would not find its records."""
        ours = os.fstat(self._file)
        try:
            there = self._path.lstat()
        except OSError:
            return True
        return (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino)

    def _sync(self, data: bytes, ts: float) -> bytes:
        """Sync the file. On failure the data is written again, to a new segment: storing it twice changes nothing."""
        try:
            os.fdatasync(self._file)
        except OSError as error:
            self._spoil()
            return self._fail(f"cannot be written to the disk: {error.strerror}", data, ts)
        return b""

    def _due(self, ts: float) -> bool:
        return self._size >= self._turn_at or not self._opened <= ts < self._until

    def _rotate(self, ts: float) -> None:
        """Begin a new segment, but not within a line."""
        if self._torn:
            return
        self._leave()
        start = max(round(ts * 1e6), self._last + 1)
        path = self._path = self._directory / segment_name(self._writer, start)
        self._file = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640
        )
        self._size, self._turn_at, self._last = 0, self._segment_bytes, start
        self._opened, self._until = ts, ts + self._segment_seconds
        if self._each:
            self._suspect = True
            sync_directory(self._directory)
            self._suspect = False

    def _leave(self) -> None:
        """Finish this segment. Raises OSError."""
        descriptor, self._file, self._turn_at = self._file, -1, 0
        if descriptor >= 0 and self._syncer is not None:
            self._syncer.done(descriptor)
        elif descriptor >= 0:
            os.close(descriptor)

    def _spoil(self) -> None:
        """Close a file that failed, and write no more to it: a second fsync(2) would report success."""
        descriptor, self._file, self._turn_at = self._file, -1, 0
        self._torn, self._suspect = False, True
        if self._syncer is not None:
            self._syncer.forget()
        if descriptor >= 0:
            os.close(descriptor)

    def _fail(self, why: str, left: bytes, ts: float) -> bytes:
        self.healthy = False
        self.error = why
        self.failures += 1
        self._retry = ts + RETRY_SECONDS
        return left

    def _keep(self, data: bytes) -> None:
        lines = data.count(b"\n")
        if self._backlog_bytes + len(data) > BACKLOG_BYTES:
            self.lost += lines
            return
        self._backlog.append(data)
        self._backlog_bytes += len(data)
        self.waiting += lines

    def _forget_backlog(self) -> None:
        self._backlog.clear()
        self._backlog_bytes = self.waiting = 0

    def _recover(self, ts: float) -> None:
        """Write the backlog, the oldest first. The rest of a line goes to the segment that has its beginning."""
        if self._suspect and not self._proves_itself(ts):
            return
        self.healthy = True
        while self._backlog:
            data = self._backlog[0]
            left = self._write(data, ts)
            self._backlog_bytes -= len(data) - len(left)
            self.waiting -= data.count(b"\n") - left.count(b"\n")
            if left:
                self._backlog[0] = left
                return
            self._backlog.popleft()
            if not self.healthy:
                return
        self.error = ""

    def _proves_itself(self, ts: float) -> bool:
        """Begin a new segment and sync its name. True: the disk works again."""
        try:
            if self._file < 0:
                self._rotate(ts)
            sync_directory(self._directory)
        except OSError as error:
            self._fail(f"cannot be written to the disk: {error.strerror}", b"", ts)
            return False
        self._suspect = False
        return True
