"""Read the command line of a process, which can block the read: the arguments are in its own memory.

If that memory is a file of the process's own file system, or its page faults go to the process's own handler (FUSE,
userfaultfd), the read waits for the process, and not even a signal ends the wait. So a thread reads; one that waits too
long is given up and replaced by another.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable

from egress.records.shape import PROCESS_CMDLINE

PATIENCE = 0.1  # seconds for one read
ALLOWANCE, WINDOW = 0.25, 10.0  # seconds that reads of an agent's processes may wait, in so many seconds
PENALTY = 60.0  # seconds without command lines for an agent that blocked a thread, and while that waits
MAX_LEFT = 16  # threads left behind; past it no command line is read

Pending = Callable[[], bytes | None]  # waits; returns at most one byte past the bound, None: not available


class _Thread:
    """A thread that reads and closes each descriptor in `descriptors`, and puts the bytes into `found`; -1 ends it."""

    def __init__(self) -> None:
        self.descriptors: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.found: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._run, daemon=True, name="command lines")
        self.thread.start()

    def _run(self) -> None:
        while (descriptor := self.descriptors.get()) >= 0:
            try:
                data = os.read(descriptor, PROCESS_CMDLINE + 1)
            except OSError:
                data = b""
            finally:
                os.close(descriptor)
            self.found.put(data)


class CommandLines:
    """Reads one command line at a time, each within PATIENCE seconds.

    After an agent's processes have delayed reads (ALLOWANCE, PENALTY), their command lines are not read for a time.
    """

    def __init__(self) -> None:
        self.refused = 0  # reads not tried, or given up
        self._reader = _Thread()
        self._left: list[tuple[str, _Thread]] = []  # agent, and the thread that its process blocks
        self._barred: dict[str, float] = {}  # agent → until when (monotonic)
        self._waited: dict[str, float] = {}  # agent → seconds, in this window
        self._window = 0.0

    def begin(self, agent: str, directory: int) -> Pending:
        """Begin to read the command line of the process whose /proc directory is open as `directory`.

        Returns a function to call once, which waits for the bytes (at most PROCESS_CMDLINE + 1). It returns None if
        they were not read in time, or if this agent's processes are not read at present; b"" if the process has ended.
        The caller closes `directory`.
        """
        if not self._may(agent):
            self.refused += 1
            return lambda: None
        try:
            descriptor = os.open("cmdline", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
        except OSError:
            return lambda: b""
        self._reader.descriptors.put(descriptor)
        return lambda: self._end(agent)

    def close(self) -> None:
        """End the thread that reads, without waiting for it."""
        self._reader.descriptors.put(-1)

    def _end(self, agent: str) -> bytes | None:
        """Wait for the bytes of the read; None after PATIENCE seconds, and then the agent is barred for PENALTY."""
        began = time.monotonic()
        try:
            found = self._reader.found.get(timeout=PATIENCE)
        except queue.Empty:
            found = None
            self._barred[agent] = began + PENALTY
            self._leave(agent)
        self._waited[agent] = self._waited.get(agent, 0.0) + time.monotonic() - began
        return found

    def _leave(self, agent: str) -> None:
        """Give up the thread that waits for a process of this agent, and start another."""
        self.refused += 1
        self._reader.descriptors.put(-1)  # it ends if it ever returns
        self._left.append((agent, self._reader))
        self._reader = _Thread()

    def _may(self, agent: str) -> bool:
        """Return True if command lines of this agent's processes are read at present."""
        now = time.monotonic()
        if now > self._window + WINDOW:
            self._window = now
            self._waited.clear()
            self._barred = {name: until for name, until in self._barred.items() if until > now}
            self._left = [each for each in self._left if each[1].thread.is_alive()]
        if agent in self._barred or any(name == agent for name, _ in self._left):
            return False
        return self._waited.get(agent, 0.0) < ALLOWANCE and len(self._left) < MAX_LEFT
