"""Lets whole runs of the suite that include the lab take turns on a machine.

Two at once would slow each other down until the lab's tests exceed their time limits. Single tests need no turn: names
and addresses of the lab are different for each run.
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
    """Return True in the process that starts the workers of a run, as root, that includes all of the lab."""
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
