"""The privileges that are left after `drop`, read from the kernel in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from egress.errors import InputError
from egress.gateway.kernel import privileges

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="root is what is given up")


def child(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@needs_root
def test_only_net_admin_is_left() -> None:
    process = child("""
        import os
        from egress.gateway.kernel import privileges
        privileges.drop("nobody", os.getppid())
        print(open("/proc/self/status").read())
        for attempt in (lambda: os.setuid(0), lambda: open("/etc/shadow"), lambda: os.chroot("/")):
            try:
                attempt()
            except PermissionError:
                print("refused")
    """)
    out, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    status = dict(line.split(":\t", 1) for line in out.splitlines() if ":\t" in line)
    net_admin = f"{1 << privileges.CAP_NET_ADMIN:016x}"
    assert {status[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {net_admin}
    assert {status[name] for name in ("CapInh", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    uid, gid = privileges.account("nobody")
    assert status["Uid"].split() == [str(uid)] * 4
    assert status["Gid"].split() == [str(gid)] * 4
    assert status["Groups"].split() == []
    assert out.count("refused") == 3


@needs_root
def test_it_dies_with_its_parent() -> None:
    parent = child("""
        import os, subprocess, sys, textwrap, time
        code = '''
        import os, time
        from egress.gateway.kernel import privileges
        privileges.drop("nobody", os.getppid())
        print(os.getpid(), flush=True)
        time.sleep(60)'''
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
        time.sleep(60)
    """)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.communicate(timeout=10)
    deadline = time.monotonic() + 5
    while _runs(pid):
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.02)


@needs_root
def test_a_parent_that_is_gone_already_is_noticed() -> None:
    process = child("""
        import os
        from egress.errors import EgressError
        from egress.gateway.kernel import privileges
        try:
            privileges.drop("nobody", os.getpid())
        except EgressError as error:
            print(error)
    """)
    out, errors = process.communicate(timeout=20)
    assert "start the gateway again" in out, errors


def test_the_user_must_exist_and_not_be_root() -> None:
    with pytest.raises(InputError, match="no user"):
        privileges.account("no-such-user-here")
    with pytest.raises(InputError, match="is root"):
        privileges.account("root")


def test_accounts_of_their_own_are_used_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    there: set[str] = set()
    monkeypatch.setattr(privileges, "_exists", there.__contains__)
    assert privileges.users("", "") == ("nobody", "nobody")
    assert privileges.users("w", "") == ("w", "w")
    assert privileges.users("w", "a") == ("w", "a")
    there |= {"egress-worker", "egress-attribution"}
    assert privileges.users("", "") == ("egress-worker", "egress-attribution")
    assert privileges.users("w", "a") == ("w", "a")


def _runs(pid: int) -> bool:
    """Return True for a process that is alive and not a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except FileNotFoundError:
        return False
    return fields[0] not in "ZX"
