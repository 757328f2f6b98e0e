"""JSON lines over pipes that never block the packet path."""

from __future__ import annotations

import os

from egress.errors import EgressError

MAX_LINE = 16 * 1024 * 1024  # a policy of some ten thousand rules
_CHUNK = 65536


class LineReader:
    """Complete lines of a file descriptor, as they come."""

    def __init__(self, descriptor: int) -> None:
        self.ended = False
        self._descriptor = descriptor
        self._rest = b""

    def read(self) -> list[bytes]:
        """What one read(2) completes; sets `ended` at the end of the file. Raises EgressError past MAX_LINE."""
        try:
            data = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return []
        self.ended = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE:
            raise EgressError(f"a message is longer than {MAX_LINE} bytes; use a smaller policy")
        return lines


class LineWriter:
    """Writes to a non-blocking descriptor and keeps what does not fit yet."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._pending = b""

    @property
    def idle(self) -> bool:
        """Nothing waits: the other side reads."""
        return not self._pending

    def write(self, line: bytes) -> None:
        self._pending += line
        self.flush()

    def flush(self) -> None:
        """Write what fits now. Raises BrokenPipeError when nobody will read it."""
        if not self._pending:
            return
        try:
            done = os.write(self._descriptor, self._pending)
        except BlockingIOError:
            return
        self._pending = self._pending[done:]
