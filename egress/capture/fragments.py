"""Reassembles IP fragments of captures, which no kernel has reassembled: IPv4 (RFC 791), IPv6 (RFC 8200 section 4.5).

A datagram with overlapping fragments is discarded, as RFC 5722 requires and Linux does.
"""

from __future__ import annotations

from bisect import bisect
from collections import OrderedDict
from typing import NamedTuple

from egress.errors import MalformedError
from egress.model import AH
from egress.wire.packet import EXTENSIONS, FRAGMENT, Fragment, fragment

MAX_DATAGRAMS = 256  # incomplete ones at a time, of at most 64 KiB each; the oldest is discarded first
TIMEOUT = 30.0  # seconds to wait for the rest of a datagram; Linux's ipfrag_time


class _Part(NamedTuple):
    """The parts of a fragment."""

    key: tuple[bytes, ...]  # equal in all fragments of a datagram
    head: bytes  # the header(s) of the whole datagram
    data: bytes


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

    def add(self, place: Fragment, part: _Part) -> bool:
        """Add a fragment; True if the datagram is whole now. Raises MalformedError if it contradicts earlier ones."""
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
        return self.offsets[-1] + len(self.data[self.offsets[-1]]) if self.offsets else 0

    def whole(self) -> bytes:
        body = b"".join(self.data[offset] for offset in self.offsets)
        head = bytearray(self.head)
        length = len(body) + (len(head) if head[0] >> 4 == 4 else len(head) - 40)
        if length > 0xFFFF:
            raise MalformedError("IP fragments make more than the largest datagram")
        at = 2 if head[0] >> 4 == 4 else 4
        head[at : at + 2] = length.to_bytes(2, "big")
        return bytes(head) + body


class Reassembler:
    """Makes datagrams of fragments, in bounded memory."""

    def __init__(self) -> None:
        self._pending: OrderedDict[tuple[bytes, ...], _Datagram] = OrderedDict()

    def add(self, raw: bytes, ts: float) -> bytes | None:
        """Return a whole packet unchanged; for a fragment the datagram that it completes, or None.

        The checksum of a datagram is not recalculated. Raises MalformedError for malformed headers, fragments cut by
        the capture, overlaps and impossible lengths.
        """
        place = fragment(raw) if _suspect(raw) else None
        if place is None:
            return raw
        part = _take_apart(raw)
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
        pending = self._pending
        while pending and (len(pending) >= MAX_DATAGRAMS or ts - next(iter(pending.values())).started > TIMEOUT):
            pending.popitem(last=False)


def _suspect(raw: bytes) -> bool:
    """Test cheaply whether a packet may be a fragment: hardly any is, and a full check is slow."""
    if len(raw) < 8:
        return True
    if raw[0] >> 4 == 4:
        return bool(raw[6] & 0x3F or raw[7])
    return raw[6] in EXTENSIONS


def _take_apart(raw: bytes) -> _Part:
    """Split a packet that is a fragment."""
    if raw[0] >> 4 == 4:
        start, end = (raw[0] & 15) << 2, raw[2] << 8 | raw[3]
        key: tuple[bytes, ...] = (raw[12:20], raw[9:10], raw[4:6])
        head = raw[:6] + b"\0\0" + raw[8:start]
    else:
        link, at = 6, 40  # the offset of the next-header field, and of the next header
        while raw[link] != FRAGMENT:
            link, at = at, at + (raw[at + 1] + 2 << 2 if raw[link] == AH else raw[at + 1] + 1 << 3)
        start, end = at + 8, 40 + (raw[4] << 8 | raw[5])
        key = (raw[8:40], raw[at + 4 : at + 8])
        head = raw[:link] + raw[at : at + 1] + raw[link + 1 : at]
    if len(raw) < end:
        raise MalformedError("an IP fragment was not captured whole")
    return _Part(key, head, raw[start:end])
