"""IP headers, IPv4 (RFC 791) and IPv6 (RFC 8200): the only file that reads their fields by offset.

`header` reads and checks all IP headers of a packet. The other functions read single fields, for callers that need no
more. (`egress.wire.packet` reads the common headers by one unpack together with the transport header.)
"""

from __future__ import annotations

from struct import Struct, unpack_from
from typing import NamedTuple

from egress.errors import MalformedError
from egress.model import AH, TCP

HOP_BY_HOP, ROUTING, FRAGMENT, NO_NEXT, DESTINATION, MOBILITY = 0, 43, 44, 59, 60, 135
EXTENSIONS = frozenset({HOP_BY_HOP, ROUTING, FRAGMENT, AH, DESTINATION, MOBILITY})
MAX_EXTENSIONS = 8  # headers in a chain; RFC 8200 section 4.1 expects each once, so real chains hold at most 7

_IP4 = Struct("!2xH2xHxB2x4s4s").unpack_from
_IP6 = Struct("!4xHBx16s16s").unpack_from
_MORE, _OFFSET = 0x2000, 0x1FFF


class Header(NamedTuple):
    """The fields of all IP headers of a packet: its transport header is at offset `start`, the packet ends at `end`."""

    proto: int
    src: bytes
    dst: bytes
    start: int
    end: int
    offset: int = 0  # of this fragment, bytes
    more: bool = False


class Quoted(NamedTuple):
    """The fields of the fixed IP header in an ICMP error; the next header is at `start`.

    IPv6 extension headers are not followed.
    """

    proto: int
    src: bytes
    dst: bytes
    start: int


def source(raw: bytes) -> bytes:
    """Return the source address of a non-empty IP packet, unchecked; a short packet gives a short or empty address."""
    return raw[12:16] if raw[0] >> 4 == 4 else raw[8:24]


def destination(raw: bytes) -> bytes:
    """Return the destination address of a non-empty packet; a short packet gives a short or empty address."""
    return raw[16:20] if raw[0] >> 4 == 4 else raw[24:40]


def total_length(raw: bytes) -> int:
    """Return the length of a packet as its IP header states it; without a whole header, the length of `raw`.

    The header of a super-packet past 64 KiB states 0 (IPv4) or no payload (IPv6).
    """
    if len(raw) >= 40 and raw[0] >> 4 == 6:
        return 40 + int.from_bytes(raw[4:6])
    if len(raw) >= 20 and raw[0] >> 4 == 4:
        return int.from_bytes(raw[2:4])
    return len(raw)


def addresses(raw: bytes) -> tuple[int, bytes, bytes, int]:
    """Return (version, source, destination, protocol) of a packet that `decode` refused; never raises.

    A field that cannot be read is 0 or b"". The protocol of IPv6 is that of the first header after the fixed one.
    """
    version = raw[0] >> 4 if raw else 0
    if version == 4:
        return 4, raw[12:16] if len(raw) >= 16 else b"", raw[16:20] if len(raw) >= 20 else b"", (raw[9:10] or b"\0")[0]
    if version == 6:
        return 6, raw[8:24] if len(raw) >= 24 else b"", raw[24:40] if len(raw) >= 40 else b"", (raw[6:7] or b"\0")[0]
    return 0, b"", b"", 0


def quoted(raw: bytes, version: int) -> Quoted | None:
    """Read the fixed header of a packet that an ICMP error quotes; None: it is not whole or not of this version."""
    if version == 4:
        if len(raw) < 20 or raw[0] >> 4 != 4:
            return None
        return Quoted(raw[9], raw[12:16], raw[16:20], (raw[0] & 15) << 2)
    if len(raw) < 40 or raw[0] >> 4 != 6:
        return None
    return Quoted(raw[6], raw[8:24], raw[24:40], 40)


def header(raw: bytes, whole: int) -> Header:
    """Read the IP headers of a packet that measured `whole` bytes on the wire, or raise MalformedError."""
    version = raw[0] >> 4 if raw else 0
    if version == 4:
        return _ip4(raw, whole)
    if version == 6:
        return _ip6(raw, whole)
    raise MalformedError("neither IPv4 nor IPv6")


def need(raw: bytes, upto: int, end: int, what: str) -> None:
    """Raise MalformedError if a header that ends at `upto` exceeds the packet, which ends at `end`, or was cut off.

    `what` is the header's name in the message.
    """
    if upto > end:
        raise MalformedError(f"{what} runs past the end of the packet")
    if upto > len(raw):
        raise MalformedError(f"{what} was not captured whole")


def _ip4(raw: bytes, whole: int) -> Header:
    """Read an IPv4 header. Raises MalformedError."""
    need(raw, 20, whole, "IPv4 header")
    length, fragment, proto, src, dst = _IP4(raw)
    start = (raw[0] & 15) << 2
    end = length or (whole if proto == TCP else 0)
    if start < 20 or end < start:
        raise MalformedError("IPv4 header length is wrong")
    if end > whole:
        raise MalformedError("IPv4 total length exceeds the packet")
    need(raw, start, end, "IPv4 header")
    offset, more = (fragment & _OFFSET) << 3, bool(fragment & _MORE)
    if offset or more:
        _check_fragment(offset, more, end - start)
    return Header(proto, src, dst, start, end, offset, more)


def _ip6(raw: bytes, whole: int) -> Header:
    """Read an IPv6 header and its extension headers (of a later fragment: up to its own). Raises MalformedError."""
    need(raw, 40, whole, "IPv6 header")
    length, proto, src, dst = _IP6(raw)
    end = 40 + length
    if not length and proto == TCP:
        end = whole
    elif not length and proto == HOP_BY_HOP:
        end = 40 + _jumbo_length(raw)
    if end > whole:
        raise MalformedError("IPv6 payload length exceeds the packet")
    start, offset, more, fragmented = 40, 0, False, False
    for _ in range(MAX_EXTENSIONS):
        if proto not in EXTENSIONS or offset:
            return Header(proto, src, dst, start, end, offset, more)
        need(raw, start + 8, end, "IPv6 extension header")
        kind, proto, size = proto, raw[start], raw[start + 1]
        if kind == FRAGMENT:
            if fragmented:
                raise MalformedError("two IPv6 fragment headers")
            fragmented = True
            field = unpack_from("!H", raw, start + 2)[0]
            start += 8
            offset, more = field & 0xFFF8, bool(field & 1)
            _check_fragment(offset, more, end - start)
            continue
        start += (size + 2) << 2 if kind == AH else (size + 1) << 3
        need(raw, start, end, "IPv6 extension header")
    if proto in EXTENSIONS and not offset:
        raise MalformedError("too many IPv6 extension headers")
    return Header(proto, src, dst, start, end, offset, more)


def _jumbo_length(raw: bytes) -> int:
    """Return the payload length in the jumbo option of a hop-by-hop header at 40 (RFC 2675 section 2).

    Raises MalformedError, also without that option.
    """
    need(raw, 48, len(raw), "IPv6 extension header")
    at, end = 42, 40 + ((raw[41] + 1) << 3)
    need(raw, end, len(raw), "IPv6 extension header")
    while at < end:
        if raw[at] == 0xC2 and at + 6 <= end and raw[at + 1] == 4:
            length: int = unpack_from("!L", raw, at + 2)[0]
            if length <= 0xFFFF:
                raise MalformedError("IPv6 jumbo payload length is too small")
            return length
        at += 1 if raw[at] == 0 else 2 + raw[at + 1] if at + 1 < end else 2
    raise MalformedError("IPv6 payload length is zero without a jumbo option")


def _check_fragment(offset: int, more: bool, size: int) -> None:
    if more and (size & 7 or not size):
        raise MalformedError("a fragment that is not the last is not a multiple of 8 bytes")
    if offset + size > 0xFFFF:
        raise MalformedError("a fragment reaches past the largest datagram")
