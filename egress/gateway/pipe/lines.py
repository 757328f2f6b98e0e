"""Read and write lines over pipes, without blocking the packet path."""

from __future__ import annotations

import os

from egress.errors import EgressError

MAX_LINE = 16 * 1024 * 1024  # the agents of a large host; a policy comes in some hundred rules a line
FULL = 1024 * 1024
_CHUNK = 65536


class LineReader:
    """Reads complete lines from a file descriptor, in time proportional to the bytes received.

    `ended` is True once the end of the file was read.
    """

    def __init__(self, descriptor: int) -> None:
        self.ended = False
        self._descriptor = descriptor
        self._rest = bytearray()
        self._next: list[bytes] = []

    def first(self) -> bytes:
        """Wait for one line and return it; empty if the file has ended. Further lines are kept for the next `read`.

        The descriptor must block. Raises EgressError, as `read` does.
        """
        while not self._next and not self.ended:
            self._next = self.read()
        return self._next.pop(0) if self._next else b""

    def read(self) -> list[bytes]:
        """Return the lines, without newline, that one read(2) completes, perhaps none. Sets `ended` at the file's end.

        It waits for bytes only if the descriptor blocks. Raises EgressError for a line longer than MAX_LINE.
        """
        if self._next:
            lines, self._next = self._next, []
            return lines
        try:
            data = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return []
        self.ended = not data
        self._rest += data
        found: list[bytearray] = []
        if b"\n" in data:
            *found, self._rest = self._rest.split(b"\n")
        if len(self._rest) > MAX_LINE:
            raise EgressError(f"a message is longer than {MAX_LINE} bytes; use a smaller policy")
        return list(map(bytes, found))


class LineWriter:
    """Writes to a descriptor, which it makes non-blocking. Bytes that do not fit yet wait in memory, without bound."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._pending = bytearray()

    @property
    def idle(self) -> bool:
        """True when no bytes wait."""
        return not self._pending

    @property
    def full(self) -> bool:
        """True when more than FULL bytes wait, since the other side does not read: write only necessary lines then."""
        return len(self._pending) > FULL

    def write(self, line: bytes) -> None:
        """Write a line, which ends with its newline, after those that wait. Raises as `flush` does."""
        self._pending += line
        self.flush()

    def flush(self) -> None:
        """Write as many of the waiting bytes as fit now. Raises BrokenPipeError when the other side is closed."""
        if not self._pending:
            return
        try:
            done = os.write(self._descriptor, self._pending)
        except BlockingIOError:
            return
        del self._pending[:done]
