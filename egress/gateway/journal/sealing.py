"""Make the seals of one writer's journal.

A seal is a line with a digest over the lines since the seal before it and over that seal: the seals form a chain, which
shows whether lines were removed or changed. Lines are hashed when they are sealed, not when they are written: only the
write that makes a seal due waits for it.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from egress.errors import MalformedError
from egress.records.eve import line
from egress.records.read import record_time
from egress.records.seals import CUT_OFF, LEAF_BYTES, START, SegmentFollower, leaf, sealed
from egress.records.shape import SealRecord, SealState
from egress.store.recording.segments import lines_of

SEAL_SECONDS = 10.0  # between two seals while there are lines
SEAL_BYTES = 64 * 1024  # of lines, and then a seal
UNSEALED = "the segments before it have no seals"
REMOVED = "its segment was removed or could not be trusted any more: unsealed lines were written again"


class Sealing:
    """The chain of one writer: the last seal, and what the next needs.

    `gap`: the reason why lines may be missing before the next seal; empty if none are.
    """

    def __init__(self, host: str, writer: str) -> None:
        self.gap = ""  # what may be missing before the next seal
        self._host, self._writer, self._chain = host, writer, secrets.token_hex(8)
        self._last: SealRecord | None = None
        self._sealed = 0.0  # when the last seal was made
        self._lost = 0  # lost records by the last seal

    @property
    def number(self) -> int:
        """The number of the last seal; 0 before the first."""
        return self._last.number if self._last is not None else 0

    @property
    def head(self) -> str:
        """The digest of the last seal; START before the first."""
        return self._last.digest if self._last is not None else START

    def resume(self, path: Path) -> None:
        """Continue the chain that an earlier segment of this writer ends with. Raises OSError if it cannot be read."""
        follower = SegmentFollower()
        for raw in lines_of(path):
            follower.line(raw)
        tail, last = follower.tail(), follower.last
        if last is None:
            self.gap = UNSEALED if follower.lines else ""
            return
        self._chain, self._last = last.chain, tail.seal if tail else last
        self.gap = "" if self._last.state is SealState.STOPPED else CUT_OFF

    def due(self, ts: float) -> bool:
        """Return True if the last seal is SEAL_SECONDS old at `ts` (epoch seconds), or the clock was set back."""
        return not self._sealed <= ts < self._sealed + SEAL_SECONDS

    def make(self, data: bytes, segment: str, state: SealState, ts: float, lost: int) -> tuple[bytes, SealRecord]:
        """Make the next seal, over the lines in `data`: those since the last seal. Returns it as a line and a record.

        `lost`: records that could not be written so far. Call `accept` once the line is written: until then nothing
        changes here.
        """
        lines = data.split(b"\n")[:-1]
        leaves = b"".join(map(leaf, lines))
        start = _time(lines[0], ts) if lines else ts
        seal = SealRecord(
            chain=self._chain, number=self.number + 1, time=ts, start=start, host=self._host,
            writer=self._writer, segment=segment, state=state, lines=len(leaves) // LEAF_BYTES,
            lost=max(lost - self._lost, 0), gap=self.gap, previous=self.head, digest=START,
        )  # fmt: skip
        seal = sealed(seal, leaves)
        return line(seal), seal

    def accept(self, seal: SealRecord, lost: int) -> None:
        """Make `seal`, which was written, the last seal of the chain. `lost`: as given to `make`."""
        self._last, self.gap, self._lost, self._sealed = seal, "", lost, seal.time

    def abandon(self, data: bytes) -> bytes:
        """Give up a segment that was removed or failed. Returns `data`, its lines since the last seal, to be rewritten.

        Should the recorder still find the segment, it makes a seal over these lines itself (a tail): the chain
        continues from that seal.
        """
        follower = SegmentFollower()
        follower.last = self._last
        for raw in data.split(b"\n")[:-1]:
            follower.line(raw)
        if (tail := follower.tail()) is not None:
            self._last = tail.seal
        self.gap = REMOVED
        return data


def _time(raw: bytes, ts: float) -> float:
    """Read the time of a line; `ts` if it has none."""
    try:
        return record_time(raw)
    except MalformedError:
        return ts
