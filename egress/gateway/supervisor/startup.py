"""Start-up of the gateway: make its directories, and take the lock that allows one gateway per run_dir."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from egress.config import Config
from egress.errors import EgressError
from egress.gateway.kernel import privileges

LOCK_SECONDS = 0.2  # between two attempts


def prepare(config: Config) -> None:
    """Make the directories. Raises EgressError if that fails, or the workers cannot reach the journal's.

    The journal belongs to the users of workers and attribution, all else to root.
    """
    try:
        config.run_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
        config.state_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
        prepare_journal(config)
    except OSError as error:
        raise EgressError(f"cannot prepare {error.filename}: {error.strerror}; check state_dir and run_dir") from None
    worker = privileges.users(config.user, config.attribution_user).worker
    for directory in (config.state_dir, *config.state_dir.parents):
        if not directory.stat().st_mode & 0o001:
            raise EgressError(f"user {worker} cannot reach {config.journal_dir}: chmod o+x {directory}")


def prepare_journal(config: Config) -> None:
    """Make the journal's directory, in which workers and attribution can write, or set its owner and mode again.

    If they are two users, attribution, which holds more capabilities, owns the directory. The workers write through
    their group; because of the sticky bit they can delete and rename their own files only. Raises OSError.
    """
    owner, gid, mode = _journal_owner(config)
    config.journal_dir.mkdir(exist_ok=True, mode=0o700)
    os.chown(config.journal_dir, owner, gid)
    config.journal_dir.chmod(mode)


def restore_journal(config: Config) -> str:
    """Make the journal's directory again if it is gone, or repair its owner and mode. Raises OSError.

    Returns the reason in words, such as `was deleted`; empty if the directory was in order.
    """
    try:
        facts = config.journal_dir.lstat()
    except FileNotFoundError:
        wrong = "was deleted"
    else:
        if (facts.st_uid, facts.st_gid, stat.S_IMODE(facts.st_mode)) == _journal_owner(config):
            return ""
        wrong = "had another owner or mode"
    prepare_journal(config)
    return wrong


def _journal_owner(config: Config) -> tuple[int, int, int]:
    """Return the uid, the gid and the mode that the journal's directory must have."""
    users = privileges.users(config.user, config.attribution_user)
    uid, gid = privileges.account(users.worker)
    owner, _ = privileges.account(users.attribution)
    return owner, gid, 0o700 if owner == uid else 0o1770


@contextmanager
def only_one(run_dir: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock of `run_dir` while the `with` statement runs.

    Waits up to `patience` seconds for the lock, then raises EgressError if another gateway has it.
    """
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
