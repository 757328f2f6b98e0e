"""Locates a finding's bytes in the packets kept for it: in one packet, or across the segments of one direction.

Segments are ordered by sequence number, as the receiver does. A missing segment is a gap, and no match crosses a gap.
Datagrams are not joined, because their order has no meaning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from egress.errors import MalformedError
from egress.model import TCP
from egress.records.shape import EvidencePacket
from egress.wire.packet import decode

_HALF, _WHOLE = 1 << 31, 1 << 32  # sequence numbers
_SYN = 2  # the flag; a SYN consumes a sequence number


@dataclass(frozen=True, slots=True)
class PacketSpan:
    """Bytes of a finding in a packet: bytes `first` to `last` of the packet are bytes `begin` to `end` of the finding.

    All offsets count from 0; `packet` is the packet's index.
    """

    packet: int
    first: int
    last: int
    begin: int
    end: int


@dataclass(slots=True)
class _Run:
    """A stretch of a stream without a gap. Each byte has its packet and its offset in the packet."""

    at: int  # sequence number, relative to the first one seen and without wrapping
    data: bytearray = field(default_factory=bytearray)
    origin: list[tuple[int, int]] = field(default_factory=list)


def find(packets: Sequence[EvidencePacket], wanted: bytes) -> list[PacketSpan]:
    """Return the place of the bytes in each packet that has them all; if none has, in the segments that join to them.

    Returns an empty list if they are not found.
    """
    if not wanted:
        return []
    last = len(wanted) - 1
    whole = [
        PacketSpan(number, at, at + last, 0, last)
        for number, packet in enumerate(packets)
        if (at := packet.data.find(wanted)) >= 0
    ]
    return whole or next((spans for run in _runs(packets) if (spans := _over(run, wanted))), [])


def _over(run: _Run, wanted: bytes) -> list[PacketSpan]:
    """Return a span for each packet that has some of the bytes, if the run contains them; else an empty list."""
    at = run.data.find(wanted)
    spans: list[PacketSpan] = []
    for count, (packet, place) in enumerate(run.origin[at : at + len(wanted)] if at >= 0 else []):
        if spans and spans[-1].packet == packet and spans[-1].last == place - 1:
            before = spans.pop()
            spans.append(PacketSpan(packet, before.first, place, before.begin, count))
        else:
            spans.append(PacketSpan(packet, place, place, count, count))
    return spans


def _runs(packets: Sequence[EvidencePacket]) -> Iterator[_Run]:
    """Yield the runs of each direction. Where segments overlap, the bytes of the one that begins earlier are taken."""
    for direction in dict.fromkeys(packet.direction for packet in packets):
        segments: list[tuple[int, int, int, bytes]] = []  # sequence, packet, place, payload
        for number, packet in enumerate(packets):
            if packet.direction is direction and (segment := _segment(packet)) is not None:
                sequence, place, payload = segment
                near = segments[0][0] if segments else sequence
                segments.append((near + ((sequence - near + _HALF) % _WHOLE - _HALF), number, place, payload))
        run: _Run | None = None
        for sequence, number, place, payload in sorted(segments, key=lambda each: each[0]):
            if run is None or sequence > run.at + len(run.data):
                if run is not None:
                    yield run
                run = _Run(sequence)
            known = run.at + len(run.data) - sequence
            run.data += payload[known:]
            run.origin += [(number, place + at) for at in range(known, len(payload))]
        if run is not None:
            yield run


def _segment(packet: EvidencePacket) -> tuple[int, int, bytes] | None:
    """Return (sequence number, offset, bytes) of a TCP packet's payload; None for packets without one."""
    try:
        read = decode(packet.data, packet.length)
    except MalformedError:
        return None
    if read.proto != TCP or not read.payload:
        return None
    # The payload is the end of the IP packet, without the bytes that the capture cut off, and without padding.
    return read.seq + bool(read.flags & _SYN), min(read.length, len(packet.data)) - len(read.payload), read.payload
