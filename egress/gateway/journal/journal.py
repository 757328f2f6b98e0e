"""The journal of a worker or of attribution: records as JSON lines; a worker writes them before it answers the kernel.

Its files are segments, `<directory>/worker-<index>-<start µs>.jsonl`. Each belongs to one worker process and is only
appended to; the recorder reads and removes them. A last line without newline was cut off by the worker's death: its
packet was not answered. The segments of `egress.gateway.attribution` are called `process-0-…`. Among the records are
seals, digests that protect them (`egress.gateway.journal.sealing`).

Durability: once `append` returns, the data is in the kernel's page cache, which survives the worker's death but not the
host's; with `fsync: second` it is on the disk about a second later, with `fsync: record` before `append` returns.

The supervisor knows all journals and grants how much each may write (`egress.gateway.supervisor.journals`).
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from egress import config
from egress.gateway.journal.sealing import SEAL_BYTES, Sealing
from egress.gateway.journal.syncing import Syncer, sync_directory
from egress.records.eve import line
from egress.records.shape import Record, SealState
from egress.store.recording.segments import newest, segment_name

BACKLOG_BYTES = 4 * 1024 * 1024  # kept in memory while the disk fails; further lines are lost, and counted
RETRY_SECONDS = 1.0
NO_ROOM = "journal.max_bytes is reached"
UNBOUNDED = 1 << 62


class JournalWriter:
    """The append-only segments of one writer. While it is not `open` no new flow should pass: records may be lost.

    Times (`ts`) are seconds since the epoch. No method raises for a disk that fails: see `healthy` and `error`.
    """

    def __init__(
        self,
        directory: Path,
        index: int,
        settings: config.Journal | None = None,
        *,
        writer: str = "worker",
        host: str = "",
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
        self._stop_at = 0  # bytes at which it is sealed or ends
        self._begun = 0  # bytes of the seal that opens it
        self._sealed = 0  # bytes up to and with the last seal
        self._opened = self._until = 0.0
        self._last = newest(directory, self._writer)  # names keep the order in which segments began
        self._limit = UNBOUNDED
        self._backlog: deque[bytes] = deque()
        self._backlog_bytes = 0
        self._suspect = False  # the disk failed: it must prove that it works again
        self._torn = False  # the segment ends inside a line: the rest of it must follow
        self.sealing = Sealing(host, self._writer)
        if self._last:
            self._resume()

    @property
    def open(self) -> bool:
        """True while records reach the file and the journal has room for new flows."""
        return self.healthy and not self.full

    def append(self, records: Iterable[Record], ts: float) -> bool:
        """Write the records of one packet with one write(2).

        Returns False if they are not on file: they wait in memory, up to BACKLOG_BYTES, or are lost and counted.
        """
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
        """Set the number of bytes that this process may write in all, counted from its start.

        `full`: no new flow should pass. When it becomes True, the next write or poll ends the segment, since the
        recorder can remove ended segments only.
        """
        if full and not self.full:
            self._turn_at = self._stop_at = 0
        self._limit, self.full = limit, full

    def poll(self, ts: float) -> None:
        """Do the regular work; call it about once a second.

        While the journal works: end or seal a segment when due, sync it, and detect failures. After a failure: try
        again every RETRY_SECONDS, and write the lines that wait in memory.
        """
        if not self.healthy:
            if not self._retry - RETRY_SECONDS <= ts < self._retry:  # also when the clock was set back
                self._recover(ts)
            return
        if self._file >= 0 and self._displaced():
            self._spoil()
            self._fail("its segment was removed by another program, with its records", b"", ts)
            return
        try:
            if self._size > self._begun and self._due(ts):
                self._rotate(ts)
            elif self._size > self._sealed and not self._torn and self.sealing.due(ts):
                self._seal(SealState.RUNNING, ts)
        except OSError as error:
            self._fail(error.strerror or str(error), b"", ts)
        try:
            if self._syncer is not None:
                self._syncer.second()
        except OSError as error:
            self._spoil()
            self._fail(f"cannot be written to the disk: {error.strerror}", b"", ts)

    def close(self, ts: float | None = None) -> None:
        """Seal, sync and close the segment. Lines that still wait in memory are lost, and counted."""
        self.lost += self.waiting
        self._forget_backlog()
        try:
            self._leave(SealState.STOPPED, self._opened if ts is None else ts)
            if self._syncer is not None:
                self._syncer.close()
        except OSError as error:
            self.healthy, self.error = False, f"cannot be written to the disk: {error.strerror}"

    def _write(self, data: bytes, ts: float) -> bytes:
        """Write as much as possible. Returns the rest, empty if all was written."""
        if self.bytes + len(data) > self._limit:
            return self._fail(NO_ROOM, data, ts)
        try:
            if self._size >= self._stop_at or not self._opened <= ts < self._until:
                self._turn(ts)
            done = os.write(self._file, data)
        except OSError as error:
            return self._fail(error.strerror or str(error), data, ts)
        self._size += done
        self.bytes += done
        self._torn = done < len(data)
        if self._torn:
            self.written += data[:done].count(b"\n")
            return self._fail("short write: disk full?", data[done:], ts)
        self.written += data.count(b"\n")
        if self._syncer is not None:
            self._syncer.written(self._file)
        elif self._each:
            return self._sync(ts)
        return b""

    def _displaced(self) -> bool:
        """Return True if the open segment is not at its path any more: the recorder would not find its records."""
        ours = os.fstat(self._file)
        try:
            there = self._path.lstat()
        except OSError:
            return True
        return (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino)

    def _sync(self, ts: float) -> bytes:
        """Sync the file. Returns b"".

        On failure its unsealed lines go to the backlog, to be written again to a new segment; none is stored twice.
        """
        try:
            os.fdatasync(self._file)
        except OSError as error:
            self._spoil()
            return self._fail(f"cannot be written to the disk: {error.strerror}", b"", ts)
        return b""

    def _due(self, ts: float) -> bool:
        return self._size >= self._turn_at or not self._opened <= ts < self._until

    def _rotate(self, ts: float) -> None:
        """Leave the segment and begin a new one; no effect within an unfinished line. Raises OSError."""
        if self._torn:
            return
        self._leave(SealState.CLOSED, ts)
        start = max(round(ts * 1e6), self._last + 1)
        path = self._path = self._directory / segment_name(self._writer, start)
        self._file = os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640
        )
        self._size, self._turn_at, self._last = 0, self._segment_bytes, start
        self._sealed = 0
        self._open(ts)
        self._opened, self._until = ts, ts + self._segment_seconds
        if self._each:
            self._suspect = True
            sync_directory(self._directory)
            self._suspect = False

    def _open(self, ts: float) -> None:
        """Write the seal that opens the segment. Raises OSError, and then the segment is removed."""
        try:
            self._seal(SealState.OPENED, ts)
        except OSError:
            os.close(self._file)
            self._file, self._turn_at, self._stop_at = -1, 0, 0
            self._path.unlink(missing_ok=True)
            raise
        self._begun = self._size

    def _turn(self, ts: float) -> None:
        """Begin the next segment if that is due, else seal this one; not within a line. Raises OSError."""
        if self._due(ts):
            self._rotate(ts)
        elif not self._torn:
            self._seal(SealState.RUNNING, ts)

    def _seal(self, state: SealState, ts: float) -> None:
        """Write a seal over the lines since the last one. Raises OSError, and then nothing of it is in the file.

        If it does not fit in the grant, none is written: the lines are sealed with later ones.
        """
        data, seal = self.sealing.make(self._unsealed(), self._path.name, state, ts, self.lost)
        self._stop_at = min(self._turn_at, self._size + SEAL_BYTES)
        if self.bytes + len(data) > self._limit and state is not SealState.OPENED:
            return
        done = os.write(self._file, data)
        if done < len(data):
            os.ftruncate(self._file, self._size)
            raise OSError(errno.ENOSPC, "short write: disk full?")
        self._size += done
        self.bytes += done
        self._stop_at = min(self._turn_at, self._size + SEAL_BYTES)
        self._sealed = self._size
        self.sealing.accept(seal, self.lost)
        if self._syncer is not None:
            self._syncer.written(self._file)

    def _unsealed(self) -> bytes:
        """Read the bytes written since the last seal; they may end within a line. Raises OSError.

        They are read from the file, since to keep them in memory would slow each write down by a twentieth.
        """
        data = b""
        while self._file >= 0 and self._sealed + len(data) < self._size:
            more = os.pread(self._file, self._size - self._sealed - len(data), self._sealed + len(data))
            if not more:
                break
            data += more
        return data

    def _resume(self) -> None:
        """Continue the chain of seals of this writer's newest segment; if it cannot be read, the next seal says so."""
        try:
            self.sealing.resume(self._directory / segment_name(self._writer, self._last))
        except OSError as error:
            self.sealing.gap = f"the chain before it cannot be read: {error.strerror}"

    def _leave(self, state: SealState, ts: float) -> None:
        """Seal the segment, and close it or pass it to the syncer. Raises OSError."""
        if self._file >= 0 and not self._torn and self._size:
            self._seal(state, ts)
        descriptor, self._file, self._turn_at = self._file, -1, 0
        self._stop_at = 0
        if descriptor >= 0 and self._syncer is not None:
            self._syncer.done(descriptor)
        elif descriptor >= 0:
            os.close(descriptor)

    def _spoil(self) -> None:
        """Close a file that failed, for good: a second fsync(2) would report success.

        Its unsealed lines go to the front of the backlog, with the rest of its last line.
        """
        try:
            again = self.sealing.abandon(self._unsealed())
        except OSError:  # the disk does not give them back
            again = b""
        descriptor, self._file, self._turn_at, self._stop_at = self._file, -1, 0, 0
        self.written -= again.count(b"\n")
        if self._torn and self._backlog:  # the rest of its last line
            again += self._backlog.popleft()
        if again:
            self._backlog.appendleft(again)
        self._recount()
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

    def _recount(self) -> None:
        self._backlog_bytes = sum(map(len, self._backlog))
        self.waiting = sum(data.count(b"\n") for data in self._backlog)

    def _forget_backlog(self) -> None:
        self._backlog.clear()
        self._backlog_bytes = self.waiting = 0

    def _recover(self, ts: float) -> None:
        """Write the backlog, the oldest first. The rest of a line goes to the segment that holds its beginning.

        After a failure of the disk a new segment must be synced first.
        """
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
        """Begin a new segment if none is open, and sync the directory. True: that worked."""
        try:
            if self._file < 0:
                self._rotate(ts)
            sync_directory(self._directory)
        except OSError as error:
            self._fail(f"cannot be written to the disk: {error.strerror}", b"", ts)
            return False
        self._suspect = False
        return True
