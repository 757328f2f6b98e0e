"""Reassembles IP fragments in captures, where no kernel has done it: IPv4 (RFC 791), IPv6 (RFC 8200 section 4.5).

A datagram with overlapping fragments is discarded, as RFC 5722 requires and Linux does.
"""

from __future__ import annotations

from bisect import bisect
from collections import OrderedDict

from egress.errors import MalformedError
from egress.wire.fragments import Fragment, Part, fragment, may_be_fragment, take_apart, whole

MAX_DATAGRAMS = 256  # incomplete ones at a time, of at most 64 KiB each; the oldest is discarded first
TIMEOUT = 30.0  # seconds to wait for the rest of a datagram; Linux's ipfrag_time


class _Datagram:
    """The fragments of one datagram so far, without overlap, by offset."""

    __slots__ = ("data", "head", "offsets", "size", "started", "total")

    def __init__(self, started: float) -> None:
        self.started = started
        self.head = b""
        self.offsets: list[int] = []
        self.data: dict[int, bytes] = {}
        self.size = 0
        self.total = -1

    def add(self, place: Fragment, part: Part) -> bool:
        """Add a fragment; return True if the datagram is whole now, False if bytes are missing or it is a duplicate.

        Raises MalformedError if it overlaps earlier ones or disagrees with them about the length.
        """
        start, end = place.offset, place.offset + len(part.data)
        if self.data.get(start) == part.data:
            return False
        at = bisect(self.offsets, start)
        if at and self.offsets[at - 1] + len(self.data[self.offsets[at - 1]]) > start:
            raise MalformedError("IP fragments overlap")
        if at < len(self.offsets) and self.offsets[at] < end:
            raise MalformedError("IP fragments overlap")
        reach = max(end, self._reach())
        if self.total < 0 and not place.more:
            self.total = end
        if self.total >= 0 and (reach > self.total or (not place.more and end != self.total)):
            raise MalformedError("IP fragments disagree about the datagram's length")
        self.offsets.insert(at, start)
        self.data[start] = part.data
        self.size += len(part.data)
        if not start:
            self.head = part.head
        return self.size == self.total

    def _reach(self) -> int:
        """Return the end of the last fragment so far, as an offset in the datagram."""
        return self.offsets[-1] + len(self.data[self.offsets[-1]]) if self.offsets else 0

    def whole(self) -> bytes:
        """Return the IP packet without fragmentation; only for a datagram that is whole."""
        return whole(self.head, b"".join(self.data[offset] for offset in self.offsets))


class Reassembler:
    """Joins fragments to datagrams, in bounded memory: MAX_DATAGRAMS incomplete ones, for TIMEOUT each."""

    def __init__(self) -> None:
        self._pending: OrderedDict[tuple[bytes, ...], _Datagram] = OrderedDict()

    def add(self, raw: bytes, ts: float) -> bytes | None:
        """Return a whole packet unchanged; for a fragment the datagram that it completes, or None.

        The checksum of a datagram is not recalculated. Raises MalformedError for malformed headers, fragments cut by
        the capture, overlaps and impossible lengths.
        """
        place = fragment(raw) if may_be_fragment(raw) else None
        if place is None:
            return raw
        part = take_apart(raw)
        self._expire(ts)
        datagram = self._pending.setdefault(part.key, _Datagram(ts))
        try:
            if not datagram.add(place, part):
                return None
            del self._pending[part.key]
            return datagram.whole()
        except MalformedError:
            self._pending.pop(part.key, None)
            raise

    def _expire(self, ts: float) -> None:
        """Discard datagrams that have waited longer than TIMEOUT, and the oldest while there are MAX_DATAGRAMS."""
        pending = self._pending
        while pending and (len(pending) >= MAX_DATAGRAMS or ts - next(iter(pending.values())).started > TIMEOUT):
            pending.popitem(last=False)
