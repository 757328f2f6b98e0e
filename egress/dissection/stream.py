"""One direction of a TCP connection as an ordered byte stream.

Delivered bytes are kept in `history`, to compare repetitions with them. The caller drops them: `forget` drops all,
`trim` those that were acknowledged; a skipped hole drops all before it. A segment that repeats kept bytes with other
content sets `conflict`: it is the classic way to show an inspector one thing and the receiver another (Ptacek & Newsham
1998, section 5.3). Out-of-order segments wait, in bounded memory.

A *strict* stream is inline: each segment is inspected before the receiver can have it. So a hole can only be filled by
bytes yet to come, and a segment that does not fit the buffer is refused (its sender will retransmit). A *lenient*
stream follows a capture or a monitored agent, where bytes may never come: it skips them and counts them in `unseen`. If
it waits at a hole while the connection advances by more than a window, most bytes are missing (`sparse`). Then a
sequence number may stand for other bytes (numbers repeat after 4 GiB), so nothing is compared from then on.
"""

from __future__ import annotations

from bisect import insort
from typing import NamedTuple

MAX_PENDING = 512  # out-of-order segments held for each direction
PENDING_COST = 128  # bytes of memory for a waiting segment besides its data
WINDOW = 1 << 30  # RFC 7323: the largest window; a segment farther away does not belong to this connection


class Overlap(NamedTuple):
    """The first difference between a segment and earlier bytes with the same sequence numbers."""

    seq: int  # of the first byte that differs
    before: bytes  # the bytes from there on as they were seen first, at most 64
    after: bytes  # and in this segment


class SegmentOverflowError(Exception):
    """A strict stream has no room for this out-of-order segment; it must not pass."""


def distance(seq: int, base: int) -> int:
    """Return the distance from sequence number `base` to `seq`, modulo 2**32 (negative: `seq` is before it)."""
    return ((seq - base + 0x80000000) & 0xFFFFFFFF) - 0x80000000


class Stream:
    """One direction of a TCP connection: takes segments in any order and returns the bytes in order, each once.

    `capacity`: the most bytes that wait out of order.
    """

    __slots__ = (
        "_ahead",
        "_front",
        "_hole",
        "acked",
        "base",
        "capacity",
        "conflict",
        "early",
        "history",
        "next",
        "order",
        "pending",
        "reached",
        "sparse",
        "strict",
        "unseen",
        "waiting",
    )

    def __init__(self, *, strict: bool, capacity: int, early: bool = False) -> None:
        self.strict = strict
        self.capacity = capacity
        self.early = early  # picked up in mid-stream: bytes before the first one seen are new, not repeated
        self.base = -1  # sequence number of history[0]; -1: not started
        self.next = 0  # sequence number expected next
        self.reached = 0  # the place of `next`: bytes before it since the stream was started, those skipped too
        self.acked = -1  # the highest acknowledgement of the other side; -1: none yet
        self.history = bytearray()
        self.pending: dict[int, bytes] = {}  # segments that wait, by sequence number
        self.order: list[int] = []  # their places, ascending
        self.waiting = 0  # bytes in pending
        self.conflict: Overlap | None = None
        self.unseen = 0
        self._hole = -1  # lenient: the number at which the stream stands still
        self._front = 0  # the farthest number seen since, and how far away it is
        self._ahead = 0
        self.sparse = False  # most bytes are missing

    def start(self, seq: int) -> None:
        """Begin the stream with the sequence number of its first byte."""
        self.base = self.next = seq
        self.history.clear()
        self.pending.clear()
        self.order.clear()
        self.waiting = 0

    def feed(self, seq: int, data: bytes, missing: int = 0) -> bytes:
        """Take a segment; return the bytes that it makes available in order. A contradiction sets `conflict`.

        `missing`: the number of bytes at its end that were not captured. Raises SegmentOverflowError if the stream is
        strict and has no room for the segment.
        """
        if self.base < 0:
            self.start(seq)
        gap = distance(seq, self.next)
        if gap and not self.strict:
            self._advance(seq)
        if gap == 0 and not self.pending and not missing:
            self._extend(data)
            return data
        if gap > 0:
            return self._hold(seq, data, gap)
        if self.early and (before := distance(self.base, seq)) > 0:
            return data[:before] + self.feed(self.base, data[before:]) if len(data) > before else data
        fresh = self._after_overlap(seq, data, -gap) if gap else data
        self._extend(fresh)
        if missing and distance(end := (seq + len(data) + missing) & 0xFFFFFFFF, self.next) > 0:
            self._skip(end)
        return fresh + self._drain() if self.pending else fresh

    def acknowledge(self, ack: int) -> bytes:
        """Note that the receiver has everything before `ack`; return the bytes that become available in order.

        A lenient stream skips the bytes before `ack` that it never saw, if later segments wait. A strict one returns
        b"".
        """
        if self.acked < 0 or distance(ack, self.acked) > 0:
            self.acked = ack
        if self.strict or self.base < 0 or ack == self.next:
            return b""
        self._advance(ack)
        if distance(ack, self.next) <= 0 or not self.pending:
            return b""
        if self.order[0] - self.reached > distance(ack, self.next):
            return b""
        self._skip(self._seq(self.order[0]))
        return self._drain()

    def trim(self) -> None:
        """Drop the kept bytes that the receiver has acknowledged: it ignores repetitions of them."""
        done = distance(self.acked, self.base) if self.acked >= 0 and self.base >= 0 else 0
        if 0 < done <= len(self.history):
            del self.history[:done]
            self.base = self.acked

    def forget(self) -> None:
        """Drop all kept bytes: later segments are not compared with them."""
        self.history.clear()
        self.base = self.next

    def held(self) -> int:
        """Return the bytes of memory that this stream takes, kept and waiting bytes included."""
        return len(self.history) + self.waiting + len(self.pending) * PENDING_COST

    def _extend(self, data: bytes) -> None:
        self.history += data
        self.next = (self.next + len(data)) & 0xFFFFFFFF
        self.reached += len(data)

    def _seq(self, place: int) -> int:
        return (self.next + place - self.reached) & 0xFFFFFFFF

    def _advance(self, seq: int) -> None:
        """Note how far the connection advances while the stream waits at a hole; set `sparse` beyond WINDOW."""
        if self._hole != self.next:
            self._hole = self._front = self.next
            self._ahead = 0
        step = distance(seq, self._front)
        if step > 0:
            self._front = seq
            self._ahead += step
            self.sparse = self.sparse or self._ahead > WINDOW

    def _skip(self, seq: int) -> None:
        """Skip the bytes up to `seq`, which will never be seen; earlier ones cannot be compared any more."""
        gap = distance(seq, self.next)
        self.unseen += max(0, gap)
        self.reached += gap
        self.base = self.next = seq
        self.history.clear()

    def _hold(self, seq: int, data: bytes, gap: int) -> bytes:
        """Keep a segment that is `gap` bytes ahead. Return bytes only if a lenient stream skips a hole for it.

        Raises SegmentOverflowError if a strict stream keeps too much.
        """
        if not data or gap > WINDOW:
            return b""
        known = self.pending.get(seq, b"")
        self._compare(seq, known, data)
        if len(data) <= len(known):
            return b""
        if len(self.pending) >= MAX_PENDING or self.waiting + len(data) > self.capacity:
            if self.strict:
                raise SegmentOverflowError("too many bytes out of order")
            self._skip(self._seq(min(self.order[0], self.reached + gap)) if self.order else seq)
            return self._drain() + self.feed(seq, data)
        if not known:
            insort(self.order, self.reached + gap)
        self.pending[seq] = data
        self.waiting += len(data) - len(known)
        return b""

    def _drain(self) -> bytes:
        """Return the bytes of the waiting segments that are next in order now."""
        out = bytearray()
        while self.order and self.order[0] <= self.reached:
            overlap = self.reached - self.order[0]
            seq = self._seq(self.order.pop(0))
            data = self.pending.pop(seq)
            self.waiting -= len(data)
            fresh = self._after_overlap(seq, data, overlap) if overlap else data
            self._extend(fresh)
            out += fresh
        return bytes(out)

    def _after_overlap(self, seq: int, data: bytes, overlap: int) -> bytes:
        """Compare the part of a segment that was seen before with its first version; return the part that is new."""
        if len(data) == 1 and overlap == 1 and self.acked >= 0 and distance(self.acked, self.next) >= 0:
            return b""  # a keep-alive probe may carry one garbage octet (RFC 9293 section 3.8.4)
        offset = distance(seq, self.base)
        skip = max(0, -offset)
        before = bytes(self.history[offset + skip : offset + overlap]) if offset + overlap > 0 else b""
        self._compare((seq + skip) & 0xFFFFFFFF, before, data[skip:overlap])
        return data[overlap:]

    def _compare(self, seq: int, before: bytes, after: bytes) -> None:
        """Set `conflict` at the first difference between two versions of the bytes at `seq`, unless it is set."""
        size = min(len(before), len(after))
        if before[:size] == after[:size] or self.conflict is not None or self.sparse:
            return
        at = next(i for i in range(size) if before[i] != after[i])
        self.conflict = Overlap((seq + at) & 0xFFFFFFFF, before[at : at + 64], after[at : at + 64])
