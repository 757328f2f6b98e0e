"""Every judged packet into a pcapng file, for debugging and for golden captures.

pcapng (draft-ietf-opsawg-pcapng): section header, one raw-IP interface with microsecond times, enhanced packet blocks
with direction (seen from the agent) and a comment `agent=<name> queue=<full|settled>`. Bounded by size; what came later
is counted.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from egress.model import Direction

CAPTURE_BYTES = 256 * 1024 * 1024
LINKTYPE_RAW = 101

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_COMMENT, _FLAGS = 1, 2


def seconds(micros: int) -> float:
    """Microseconds as the seconds that a reader of captures makes of them, to the last bit: replay must be equal."""
    whole, rest = divmod(micros, 1_000_000)
    return whole + rest / 1_000_000


class Capture:
    """One worker's capture file, created at once. Times are the engine's own, exact to the microsecond."""

    def __init__(self, directory: Path, index: int, ts: float, limit: int = CAPTURE_BYTES) -> None:
        path = directory / f"worker-{index}-{round(ts * 1e6)}.pcapng"
        self.path = path
        self.skipped = 0
        self._left = limit
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o640)
        section = _block(_SECTION, struct.pack("=IHHq", 0x1A2B3C4D, 1, 0, -1))
        self._write(section + _block(_INTERFACE, struct.pack("=HHI", LINKTYPE_RAW, 0, 0)))

    def packet(self, raw: bytes, length: int, ts: float, agent: str, direction: Direction, settled: bool) -> None:
        """`length`: bytes of the packet on the wire, of which `raw` are here."""
        micros = round(ts * 1e6)
        comment = f"agent={agent} queue={'settled' if settled else 'full'}".encode()
        body = struct.pack("=IIIII", 0, micros >> 32, micros & 0xFFFFFFFF, len(raw), max(length, len(raw))) + _pad(raw)
        body += _option(_FLAGS, struct.pack("=I", 2 if direction is Direction.OUT else 1))
        body += _option(_COMMENT, comment) + struct.pack("=HH", 0, 0)
        self._write(_block(_PACKET, body))

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
        self._left = self._left - done if done == len(data) else 0  # a torn block ends the file
        self.skipped += done != len(data)


def _block(kind: int, body: bytes) -> bytes:
    length = 12 + len(body)
    return struct.pack("=II", kind, length) + body + struct.pack("=I", length)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("=HH", code, len(value)) + _pad(value)


def _pad(value: bytes) -> bytes:
    return value + bytes(-len(value) % 4)
