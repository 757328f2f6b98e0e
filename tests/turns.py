"""One checkout at a time: whole runs of the suite with the lab take turns on a machine.

Two at once would starve each other of the seconds that the lab's tests wait at most. Single tests need no turn: names
and addresses of the lab are each run's own.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest

LAB = Path(__file__).resolve().parent / "lab"
LOCK = Path("/run/egress-tests.lock")


def needs_turn(config: pytest.Config) -> bool:
    """The process that starts workers for a run, as root, which includes all of the lab."""
    if not getattr(config.option, "numprocesses", None) or hasattr(config, "workerinput") or os.geteuid():
        return False
    if "not lab" in config.option.markexpr or config.option.collectonly:
        return False
    return any(LAB.is_relative_to(Path(config.invocation_params.dir, word).resolve()) for word in config.args)


def take_turn(lock: Path, say: Callable[[str], None]) -> TextIO:
    """Wait until no other run holds the lock. It is given back when the file is closed, or the process ends."""
    file = lock.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        say(f"waiting for another run of the tests: {file.read().strip() or 'just begun'} (lock {lock})")
        fcntl.flock(file, fcntl.LOCK_EX)
    file.truncate(0)
    file.write(f"process {os.getpid()} in {Path.cwd()}\n")
    file.flush()
    return file
