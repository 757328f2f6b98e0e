"""Start-up of the gateway: its directories, and the lock that allows one gateway per run_dir."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from egress.config import Config
from egress.errors import EgressError
from egress.gateway.kernel import privileges

LOCK_SECONDS = 0.2  # between two attempts


def prepare(config: Config) -> None:
    """Make the directories; the journal's belongs to the workers' user. Raises EgressError if that cannot reach it."""
    uid, gid = privileges.account(config.user)
    try:
        config.run_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
        config.state_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
        config.journal_dir.mkdir(exist_ok=True, mode=0o700)
        os.chown(config.journal_dir, uid, gid)
    except OSError as error:
        raise EgressError(f"cannot prepare {error.filename}: {error.strerror}; check state_dir and run_dir") from None
    for directory in (config.state_dir, *config.state_dir.parents):
        if not directory.stat().st_mode & 0o001:
            raise EgressError(f"user {config.user} cannot reach {config.journal_dir}: chmod o+x {directory}")


@contextmanager
def only_one(run_dir: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock of `run_dir`, waiting `patience` seconds. Raises EgressError while another gateway has it."""
    path = run_dir / "gateway.lock"
    try:
        run_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise EgressError(f"cannot open {path}: {error.strerror}; run as root, or check run_dir") from None
    try:
        _lock(descriptor, path, time.monotonic() + patience)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "?"
                raise EgressError(
                    f"another gateway runs already (pid {owner}, {path}); stop it or use another run_dir"
                ) from None
        time.sleep(LOCK_SECONDS)
