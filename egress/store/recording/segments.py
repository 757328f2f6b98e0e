"""The journal as the recorder sees it: append-only segments `<writer>-<start µs>.jsonl` and their whole lines.

A writer (`worker-0`, …) begins a new segment when it starts and when one is full or old enough, and never touches an
older one. So a segment with a successor is complete, unless a clock was set back (`finished` checks that). The files
belong to unprivileged workers, and a hostile worker may put anything into the directory: symbolic links, devices,
pipes and names that no database can hold are skipped.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BATCH_BYTES = 1 << 20  # read and stored at once; as many bytes without a newline are torn
MAX_START = 1 << 62  # µs; a later start does not come from a clock

_NAME = re.compile(r"(?P<writer>.+)-(?P<start>[0-9]{1,20})\.jsonl", re.ASCII)


@dataclass(frozen=True, slots=True)
class Segment:
    """A file of the journal; size and time are those of the listing of the directory."""

    path: Path
    size: int  # bytes
    modified: float  # seconds since the epoch
    final: bool  # its writer has begun a newer segment
    writer: str = ""

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.path.name


def segments(directory: Path) -> list[Segment]:
    """The segments in a journal directory, by the start in their names; none if it does not exist. Raises OSError.

    `.jsonl` files with other names come first, each as the only segment of a writer.
    """
    found: list[tuple[int, str, os.DirEntry[str]]] = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.endswith(".jsonl") and entry.name.isascii():
                    match = _NAME.fullmatch(entry.name)
                    found.append((int(match["start"]), match["writer"], entry) if match else (0, entry.name, entry))
    except FileNotFoundError:
        return []
    latest: dict[str, int] = {}
    for start, writer, _ in found:
        latest[writer] = max(start, latest.get(writer, 0))
    listed = []
    for start, writer, entry in sorted(found, key=lambda item: (item[0], item[2].name)):
        # The size is read after the listing: a segment that has a successor is complete by now.
        try:
            facts = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        if stat.S_ISREG(facts.st_mode):
            final = start < latest[writer]
            listed.append(Segment(Path(entry.path), facts.st_size, facts.st_mtime, final, writer))
    return listed


def segment_name(writer: str, start: int) -> str:
    """The file name of a writer's segment that starts at a time (µs)."""
    return f"{writer}-{start}.jsonl"


def newest(directory: Path, writer: str) -> int:
    """The start of the writer's newest segment, in µs; 0 if there is none or the directory cannot be read."""
    try:
        names = [path.name for path in directory.iterdir()]
    except OSError:
        return 0
    matches = [match for match in map(_NAME.fullmatch, names) if match is not None and match["writer"] == writer]
    return max((start for match in matches if (start := int(match["start"])) < MAX_START), default=0)


def usage(directory: Path) -> int:
    """The size in bytes of all files in a journal directory; 0 if it does not exist. Raises OSError."""
    total = 0
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    total += entry.stat(follow_symlinks=False).st_size
                except FileNotFoundError:
                    continue
    except FileNotFoundError:
        return 0
    return total


def read(segment: Segment, offset: int, most: int = BATCH_BYTES) -> bytes:
    """Read at most `most` bytes from `offset`, not beyond the size that the segment had when listed. Raises OSError."""
    descriptor = os.open(segment.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, min(most, segment.size - offset), offset)
    finally:
        os.close(descriptor)


def lines_of(path: Path, end: int = MAX_START) -> Iterator[bytes]:
    """Yield the whole lines of a file, without their newlines, up to the byte `end`. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        offset, rest = 0, b""
        while data := os.pread(descriptor, min(BATCH_BYTES, end - offset), offset):
            offset += len(data)
            *lines, rest = (rest + data).split(b"\n")
            yield from lines
    finally:
        os.close(descriptor)


def finished(segment: Segment, *, abandoned: bool = False) -> bool:
    """True if nothing will be appended to the segment; False if that is not certain, or the file is gone.

    That is so if its writer has begun a newer segment, no process has it open for writing, and it has not grown since
    it was listed. A newer segment alone is no proof, since names contain wall-clock times and clocks are set back. A
    read lease is: the kernel grants it only on a file that no process has open for writing. If this process may take no
    lease (the file belongs to another user), the newer segment suffices. `abandoned`: a lease suffices without a newer
    segment, since a writer opens a segment only once. Raises OSError.
    """
    if not segment.final and not abandoned:
        return False
    try:
        descriptor = os.open(segment.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN or not segment.final:
            return False
    finally:
        size = os.fstat(descriptor).st_size
        os.close(descriptor)
    return size == segment.size


def whole_lines(data: bytes, *, last: bool) -> tuple[list[bytes], bytes]:
    """Split data into whole lines (without their newline) and torn bytes, which will never become a line.

    An unfinished end that may still become a line is in neither; with `last` (nothing will be appended) it is torn. A
    full batch without a newline is torn, too: no line is so long.
    """
    end = data.rfind(b"\n") + 1
    torn = data[end:] if last or (end == 0 and len(data) >= BATCH_BYTES) else b""
    return data[:end].split(b"\n")[:-1], torn
