"""The search for a socket's holder, by its inode, among the real processes of this machine."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterator

import pytest

from egress.gateway.attribution.namespaces import Identity, namespace_of
from egress.gateway.attribution.proc import Process
from egress.gateway.attribution.search import RECENT, HeldSocket, Search

NOWHERE: Identity = (0, 0)  # a namespace that no process is in


def look(pid: int, directory: int) -> Process:
    assert os.readlink("exe", dir_fd=directory)
    return Process(pid, pid, 0, "", "", "", 0.0)


def here() -> Identity:
    found = namespace_of("/proc/self/ns/net")
    assert found is not None
    return found


@pytest.fixture
def inode() -> Iterator[int]:
    with socket.socket() as opened:
        yield os.fstat(opened.fileno()).st_ino


def held(search: Search) -> list[HeldSocket]:
    return [step for step in search.steps() if step is not None]


def test_it_is_found_and_remembered(inode: int) -> None:
    recent: deque[int] = deque(maxlen=RECENT)
    found = held(Search(here(), {inode}, recent, look))
    assert [(each.inode, each.process.pid) for each in found] == [(inode, os.getpid())]
    assert list(recent) == [os.getpid()]
    again = Search(NOWHERE, {inode}, recent, look, everywhere=False)
    assert len(held(again)) == 1 and (again.seen, again.abroad) == (1, False)


def test_what_nobody_holds_is_missing(inode: int) -> None:
    search = Search(here(), {1, inode}, deque(maxlen=RECENT), look)
    assert [each.inode for each in held(search)] == [inode] and search.missing == {1}


def test_elsewhere_is_looked_only_if_it_may(inode: int) -> None:
    stays = Search(NOWHERE, {inode}, deque(), look, everywhere=False)
    assert held(stays) == [] and (stays.seen, stays.abroad) == (0, False)
    goes = Search(NOWHERE, {inode}, deque(maxlen=RECENT), look)
    assert len(held(goes)) == 1 and goes.abroad
