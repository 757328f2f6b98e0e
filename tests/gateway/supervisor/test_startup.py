"""The gateway's directories: two users share the journal's, and cannot touch each other's files."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from egress.config import Config
from egress.gateway.kernel import privileges
from egress.gateway.supervisor import startup
from tests.lab.net import needs_root

WRITE = """
import os, sys
from egress.gateway.kernel import privileges
uid, gid = privileges.account(sys.argv[1])
os.setgroups([]); os.setresgid(gid, gid, gid); os.setresuid(uid, uid, uid)
os.chdir(sys.argv[2])
open(sys.argv[3], "x").close()
for attempt in (lambda: open(sys.argv[4], "r+"), lambda: os.unlink(sys.argv[4])):
    try:
        attempt()
    except PermissionError:
        print("refused")
    except FileNotFoundError:
        print("absent")
"""


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that other users may pass; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@needs_root
def test_two_users_share_the_journal(reachable: Path) -> None:
    config = Config(state_dir=reachable / "s", run_dir=reachable / "r", user="nobody", attribution_user="daemon")
    startup.prepare(config)

    def write(user: str, ours: str, theirs: str) -> list[str]:
        words = [sys.executable, "-c", WRITE, user, str(config.journal_dir), ours, theirs]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()

    assert write("daemon", "process-0-1.jsonl", "none") == ["absent"] * 2
    assert write("nobody", "worker-0-1.jsonl", "process-0-1.jsonl") == ["refused"] * 2
    assert config.journal_dir.stat().st_mode & 0o7777 == 0o1770


@needs_root
def test_one_user_has_the_journal_to_itself(reachable: Path) -> None:
    config = Config(state_dir=reachable / "s", run_dir=reachable / "r", user="nobody")
    startup.prepare(config)
    found = config.journal_dir.stat()
    assert (found.st_uid, found.st_gid) == privileges.account("nobody")
    assert found.st_mode & 0o7777 == 0o700
    assert config.state_dir.stat().st_uid == os.getuid()


@needs_root
def test_the_journal_is_made_again_for_the_same_users(reachable: Path) -> None:
    config = Config(state_dir=reachable / "s", run_dir=reachable / "r", user="nobody", attribution_user="daemon")
    startup.prepare(config)
    before = config.journal_dir.stat()
    assert startup.restore_journal(config) == ""
    config.journal_dir.rmdir()
    assert startup.restore_journal(config) == "was deleted"
    config.journal_dir.chmod(0o755)
    os.chown(config.journal_dir, 0, 0)
    assert startup.restore_journal(config) == "had another owner or mode"
    after = config.journal_dir.stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    assert startup.restore_journal(config) == ""


@needs_root
def test_a_journal_that_cannot_be_made_is_an_error(reachable: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        startup.restore_journal(Config(state_dir=reachable / "none", user="nobody"))
