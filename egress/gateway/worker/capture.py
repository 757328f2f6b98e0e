"""Write every judged packet to a pcapng file, for debugging and for the captures of the tests.

Packets carry their direction (seen from the agent) and a comment `agent=<name> queue=<full|settled>`. The file is
bounded by size; later packets are counted.
"""

from __future__ import annotations

import os
from pathlib import Path

from egress.capture import blocks
from egress.model import Direction

CAPTURE_BYTES = 256 * 1024 * 1024


def seconds(micros: int) -> float:
    """Convert microseconds to seconds exactly as a reader of captures does: a replay must compute with equal floats."""
    whole, rest = divmod(micros, 1_000_000)
    return whole + rest / 1_000_000


class CaptureWriter:
    """One worker's capture file of at most `limit` bytes, created by the constructor, which raises OSError.

    Times are the engine's own, in seconds, exact to the microsecond.
    """

    def __init__(self, directory: Path, index: int, ts: float, limit: int = CAPTURE_BYTES) -> None:
        path = directory / f"worker-{index}-{round(ts * 1e6)}.pcapng"
        self.path = path
        self.skipped = 0
        self._left = limit
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._write(blocks.header())

    def packet(self, raw: bytes, length: int, ts: float, agent: str, direction: Direction, settled: bool) -> None:
        """Write a packet of `length` bytes on the wire, of which `raw` are the first.

        Its comment names the agent, and the queue that it came from (`settled` or not). A packet beyond the limit, and
        all after an error of the disk, are counted in `skipped` instead.
        """
        comment = f"agent={agent} queue={'settled' if settled else 'full'}"
        self._write(blocks.packet(raw, length, round(ts * 1e6), direction, comment))

    def close(self) -> None:
        os.close(self._file)

    def _write(self, data: bytes) -> None:
        if self._left < len(data):
            self.skipped += 1
            return
        try:
            done = os.write(self._file, data)
        except OSError:
            done = 0
        self._left = self._left - done if done == len(data) else 0  # a block that is cut off ends the file
        self.skipped += done != len(data)
