"""Find the process that holds a socket: each descriptor of each process is a link, and one of them is `socket:[INODE]`.

The order: processes that held sockets of the agent a moment ago; the processes of the agent's network namespace, the
youngest first; their threads, which may have descriptors of their own; all other processes, which may have been given
the socket, or have left the namespace with it. An agent may have thousands of processes: a search goes step by step,
with the steps of other searches in between.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from egress.gateway.attribution.namespaces import Identity, namespace_of
from egress.gateway.attribution.proc import Process, newest_first, open_directory

STEP = 64  # descriptors between two reads of the clock
RECENT = 8  # processes of an agent remembered


class HeldSocket(NamedTuple):
    """A socket and the process that holds it."""

    inode: int
    process: Process


Look = Callable[[int, int], Process]  # pid, descriptor of its directory


class Search:
    """Looks for the processes that hold sockets, given by inode. `missing` are the inodes not found yet.

    `namespace`: where to search first. `recent`: pids to try before that, to which the found ones are added.
    `everywhere`: search the processes outside the namespace, too. `look` reads a process that holds a socket, given its
    pid and a descriptor of its /proc directory.
    """

    def __init__(
        self, namespace: Identity, inodes: set[int], recent: deque[int], look: Look, *, everywhere: bool = True
    ) -> None:
        self.missing = set(inodes)
        self.seen = 0  # processes searched
        self.abroad = False  # the namespace is done, and other processes are searched
        self._namespace, self._recent, self._look, self._everywhere = namespace, recent, look, everywhere
        self._names = {b"socket:[%d]" % inode: inode for inode in inodes}

    def steps(self) -> Iterator[HeldSocket | None]:
        """Do the search in short steps; yield after each a socket with its process, or None if it found none.

        Ends when all sockets are found or all processes are searched.
        """
        others: list[int] = []
        for part in (self._known(), self._inside(others), self._abroad(others)):
            for step in part:
                yield step
                if not self.missing:
                    return

    def _known(self) -> Iterator[HeldSocket | None]:
        for pid in tuple(self._recent):
            yield from self._process(pid)

    def _inside(self, others: list[int]) -> Iterator[HeldSocket | None]:
        """Search the processes of the namespace; collect the others."""
        inside = []
        for pid in newest_first():
            if namespace_of(f"/proc/{pid}/ns/net") == self._namespace:
                inside.append(pid)
                yield from self._process(pid)
            else:
                others.append(pid)
                yield None
        for pid in inside:
            yield from self._threads(pid)

    def _abroad(self, others: list[int]) -> Iterator[HeldSocket | None]:
        self.abroad = self._everywhere
        for pid in others if self._everywhere else ():
            yield from self._process(pid)

    def _process(self, pid: int) -> Iterator[HeldSocket | None]:
        directory = open_directory(pid)
        if directory is None:
            return
        self.seen += 1
        try:
            yield from self._descriptors(pid, directory, "fd")
        finally:
            os.close(directory)

    def _threads(self, pid: int) -> Iterator[HeldSocket | None]:
        directory = open_directory(pid)
        if directory is None:
            return
        try:
            for thread in _names(directory, "task"):
                yield None
                if thread != str(pid):
                    yield from self._descriptors(pid, directory, f"task/{thread}/fd")
        finally:
            os.close(directory)

    def _descriptors(self, pid: int, directory: int, table: str) -> Iterator[HeldSocket | None]:
        try:
            opened = os.open(table, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        except OSError:
            return
        try:
            with os.scandir(opened) as entries:
                for number, entry in enumerate(entries):
                    inode = self._names.get(_target(entry.name, opened), 0)
                    if inode in self.missing:
                        self.missing.discard(inode)
                        yield self._found(inode, pid, directory)
                    elif number % STEP == STEP - 1:
                        yield None
                    if not self.missing:
                        return
        except OSError:
            return  # it ended
        finally:
            os.close(opened)

    def _found(self, inode: int, pid: int, directory: int) -> HeldSocket:
        if pid in self._recent:
            self._recent.remove(pid)
        self._recent.appendleft(pid)
        return HeldSocket(inode, self._look(pid, directory))


def _target(name: str, opened: int) -> bytes:
    try:
        return os.readlink(name.encode(), dir_fd=opened)
    except OSError:
        return b""


def _names(directory: int, name: str) -> Iterator[str]:
    try:
        opened = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return
    try:
        with os.scandir(opened) as entries:
            yield from (entry.name for entry in entries)
    except OSError:
        return
    finally:
        os.close(opened)
