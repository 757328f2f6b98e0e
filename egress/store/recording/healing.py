"""Removes the torn (incomplete) last line of a journal segment whose writer was killed while it wrote that line.

A worker gives a packet its verdict only after its records are written, so the verdict of a torn line was never carried
out. Call `heal` while the writer is not running. The torn bytes go to the quarantine file. Whole lines are never
touched, so the recorder may read the segment at the same time.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from egress.config import Config
from egress.store.recording.quarantine import quarantine, quarantine_file
from egress.store.recording.segments import BATCH_BYTES, segments

# O_NONBLOCK: the recorder may hold a lease for a moment (segments.finished), and opening a pipe would block.
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Healed:
    """A segment whose torn end was removed."""

    segment: str
    torn: int  # bytes


def heal(config: Config, writer: str = "") -> list[Healed]:
    """Remove the torn ends of the segments of one writer, or of all (empty); returns the changed segments.

    A segment that is in use, is not a regular file, has several links, or has no whole line in its last BATCH_BYTES
    is left to the recorder. Raises OSError.
    """
    found = []
    for segment in segments(config.journal_dir):
        if segment.size and writer in ("", segment.writer):
            torn = _heal(segment.path, quarantine_file(config))
            if torn:
                found.append(Healed(segment.name, torn))
    return found


def _heal(path: Path, aside: Path) -> int:
    """Remove the torn end of a file; returns the number of bytes removed."""
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EWOULDBLOCK, errno.ELOOP, errno.ENXIO):
            return 0
        raise
    try:
        facts = os.fstat(descriptor)
        # Workers own the directory: a hard link in it must not get another file of the host truncated.
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1 or not facts.st_size:
            return 0
        if os.pread(descriptor, 1, facts.st_size - 1) == b"\n":
            return 0
        begin = max(facts.st_size - BATCH_BYTES, 0)
        tail = os.pread(descriptor, BATCH_BYTES, begin)
        end = tail.rfind(b"\n") + 1
        if not end and begin:
            return 0
        quarantine(aside, path.name, begin + end, [("torn line", tail[end:])])
        os.ftruncate(descriptor, begin + end)
        return len(tail) - end
    finally:
        os.close(descriptor)
