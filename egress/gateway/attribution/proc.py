"""Read a process in /proc through one descriptor of its directory: never another process that got the same pid.

A process controls the content of its command line and its name: it may be anything, and is bounded here.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from egress.gateway.attribution.cmdline import Pending
from egress.records.shape import PROCESS_CMDLINE, PROCESS_PATH

MAX_FILE = 1 << 16  # bytes read of status, stat, cgroup
_TICKS = os.sysconf("SC_CLK_TCK")
_STARTTIME = 22 - 3  # field of stat(5), counted after the name


class Process(NamedTuple):
    """A process as it was read. A field is empty, 0 or None if the process was gone by then."""

    pid: int  # in our namespace
    inner_pid: int  # in its own
    uid: int | None  # the effective one, in our namespace
    exe: str
    cmdline: str | None  # None: it could not be read in time
    cgroup: str  # the whole file
    started: float | None  # seconds since the epoch


Reader = Callable[[int], Pending]  # of a command line, by a descriptor of the process' directory


def newest_first() -> list[int]:
    """List the pids of all processes, the newest process first."""
    last = int(Path("/proc/loadavg").read_text(encoding="ascii").split()[-1])
    most = int(Path("/proc/sys/kernel/pid_max").read_text(encoding="ascii"))
    pids = [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdecimal()]
    return in_order(pids, last, most)


def in_order(pids: list[int], last: int, most: int) -> list[int]:
    """Sort pids, the newest first. `last`: the newest of all; after `most` the kernel starts from low numbers again."""
    return sorted(pids, key=lambda pid: (last - pid) % most)


def open_directory(pid: int) -> int | None:
    """Open /proc/PID and return the descriptor, which never means another process; None if the process is gone."""
    try:
        return os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None


def look(pid: int, directory: int, command_line: Reader) -> Process:
    """Read the process whose /proc directory is open as `directory`; first the fields that vanish first at its end.

    `command_line` begins to read its command line. Never raises: fields that are gone are empty.
    """
    exe = _link(directory, "exe")
    pending = command_line(directory)
    cgroup = _file(directory, "cgroup").decode("utf-8", "backslashreplace")
    uid, inner = status(_file(directory, "status"))
    started = start(_file(directory, "stat"))
    cmdline = pending()
    shown = None if cmdline is None else quoted(cmdline)
    return Process(pid, inner, uid, exe, shown, cgroup, started)


def quoted(raw: bytes) -> str:
    """Return a command line (arguments, each ended by NUL) quoted for a shell, at most PROCESS_CMDLINE characters.

    One that was cut ends with an ellipsis.
    """
    cut = len(raw) > PROCESS_CMDLINE
    arguments = raw[:PROCESS_CMDLINE].rstrip(b"\0").split(b"\0") if raw.strip(b"\0") else []
    text = shlex.join(each.decode("utf-8", "backslashreplace") for each in arguments)
    return text if len(text) <= PROCESS_CMDLINE and not cut else text[: PROCESS_CMDLINE - 2] + " …"


def status(text: bytes) -> tuple[int | None, int]:
    """Parse /proc/PID/status. Returns the effective uid (None if missing), and the pid in the process's own namespace.

    That pid is 0 if it is missing.
    """
    uid, inner = None, 0
    for line in text.split(b"\n"):
        words = line.split()
        if len(words) >= 3 and words[0] == b"Uid:":
            uid = _number(words[2])
        elif len(words) >= 2 and words[0] == b"NSpid:":
            inner = _number(words[-1]) or 0
    return uid, inner


def start(text: bytes) -> float | None:
    """Parse the process's start in /proc/PID/stat. Returns seconds since the epoch; None if the text is not valid.

    The name in it may hold spaces and parentheses.
    """
    fields = text.rpartition(b")")[2].split()
    ticks = _number(fields[_STARTTIME]) if len(fields) > _STARTTIME else None
    if ticks is None:
        return None
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / _TICKS


def _number(text: bytes) -> int | None:
    return int(text) if text.isdigit() and len(text) < 20 else None


def _link(directory: int, name: str) -> str:
    try:
        target = os.readlink(name.encode(), dir_fd=directory)
    except OSError:  # gone, or a thread of the kernel
        return ""
    return target.decode("utf-8", "backslashreplace")[:PROCESS_PATH]


def _file(directory: int, name: str) -> bytes:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return b""
    try:
        return os.read(descriptor, MAX_FILE)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
