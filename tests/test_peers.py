"""Peers of unix sockets: who connected, and from which network."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from egress.peers import is_of_this_host, peer_of


def test_a_peer_is_identified() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert peer_of(ours) == (os.getpid(), os.getuid(), True)


def test_a_process_that_is_gone_is_not_of_this_host() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert is_of_this_host(os.getpid())
    assert not is_of_this_host(ended.pid)
    assert not is_of_this_host(0)


@pytest.mark.parametrize("uid, believed", [(0, False), (1000, True)])
def test_root_that_may_not_look_believes_no_one(monkeypatch: pytest.MonkeyPatch, uid: int, believed: bool) -> None:
    def refuse(_: Path) -> os.stat_result:
        raise PermissionError

    monkeypatch.setattr(Path, "stat", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert is_of_this_host(os.getpid()) is believed
