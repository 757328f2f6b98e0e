"""The TLS records that an agent sends on a settled flow, followed by sequence number."""

from __future__ import annotations

from egress.errors import MalformedError
from egress.model import Packet
from egress.wire.tlsrecords import HEADER, LONGEST, TYPES, Records, record_length


class RecordTrack:
    """Checks the headers of records at the positions where they must begin.

    `lost`: the position of the next header is not known any more, and nothing is checked. This is so after a header in
    bytes that the kernel did not copy, or in a segment that comes after later ones.
    """

    __slots__ = ("_at", "_begun", "lost")

    def __init__(self, seq: int, records: Records) -> None:
        self._at = (seq + records.left) & 0xFFFFFFFF  # sequence number of the next byte of a header
        self._begun = records.begun  # the bytes of this header that have come
        self.lost = False

    def holds(self, packet: Packet) -> bool:
        """Check a TCP segment of the agent; return False if a header in it is not that of a record."""
        payload, seq = packet.payload, packet.seq
        size = len(payload)
        at = ((self._at - seq + 0x80000000) & 0xFFFFFFFF) - 0x80000000  # `stream.distance`, without a call
        if at >= size + packet.missing or self.lost:
            return True
        if not self._begun:
            while 0 <= at <= size - HEADER:  # whole headers, as nearly always
                length = payload[at + 3] << 8 | payload[at + 4]
                if payload[at] not in TYPES or payload[at + 1] != 3 or payload[at + 2] > 4 or not 0 < length <= LONGEST:
                    return False
                at += HEADER + length
            self._at = (seq + at) & 0xFFFFFFFF
        return at >= size + packet.missing or self._walk(packet, at)

    def _walk(self, packet: Packet, at: int) -> bool:
        """Check a segment in which a header, perhaps not whole, is expected `at` bytes from its start; as `holds`."""
        payload = packet.payload
        while at < len(payload) + packet.missing:
            header = self._begun + payload[at : at + HEADER - len(self._begun)]
            if at < 0 or (packet.missing and at + HEADER - len(self._begun) > len(payload)):
                self.lost = True
                return True
            at += len(header) - len(self._begun)
            try:
                length = record_length(header)
            except MalformedError:
                return False
            self._begun = b"" if length is not None else header
            at += length or 0
            self._at = (packet.seq + at) & 0xFFFFFFFF
        return True
