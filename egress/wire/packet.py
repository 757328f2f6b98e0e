"""IP packets: bytes to `egress.model.Packet`. struct only, because every packet of every agent comes through here.

A TCP segment without IP options or extension headers is read by one unpack, and so is a UDP datagram over IPv4 (the
hot path); everything else takes the general way below it, which states the same facts. Checksums are not verified: a
packet queued before segmentation offload carries an unfinished one.

Three lengths are kept apart: `captured`, the bytes at hand; `whole`, the bytes the packet had on the wire; and
`end`, where the IP header says it ends. captured < end is a truncated capture, whole > end is link padding, and
whole < end is a lie and MalformedError.
"""

from __future__ import annotations

from struct import Struct, unpack_from
from typing import NamedTuple

from egress.errors import MalformedError
from egress.model import AH, ICMP, ICMPV6, SCTP, TCP, UDP, Packet

HOP_BY_HOP, ROUTING, FRAGMENT, NO_NEXT, DESTINATION, MOBILITY = 0, 43, 44, 59, 60, 135
EXTENSIONS = frozenset({HOP_BY_HOP, ROUTING, FRAGMENT, AH, DESTINATION, MOBILITY})
MAX_EXTENSIONS = 8  # headers in a chain; RFC 8200 section 4.1 expects each once, so real chains hold at most 7

_TCP4 = Struct("!2xH2xH4x4s4sHHLLBB").unpack_from  # IPv4 without options, then TCP
_TCP6 = Struct("!4xH2x16s16sHHLLBB").unpack_from  # IPv6 without extension headers, then TCP
_UDP4 = Struct("!2xH2xH4x4s4sHHH").unpack_from  # IPv4 without options, then UDP
_IP4 = Struct("!2xH2xHxB2x4s4s").unpack_from
_IP6 = Struct("!4xHBx16s16s").unpack_from
_TCP = Struct("!HHLLBB").unpack_from
_MORE, _OFFSET = 0x2000, 0x1FFF
_new = tuple.__new__  # a NamedTuple's own constructor costs a second call


def decode(raw: bytes, wire_length: int | None = None) -> Packet:
    """Read one packet that begins with its IP header, or raise MalformedError (RFC 791, 8200, 9293, 768, 792, 4443,
    9260).

    `wire_length` is what the packet measured before the copy in `raw` was cut; None: `raw` is all of it. Only a cut
    copy may end before the IP header says so, and then `Packet.missing` counts the absent payload bytes; headers
    that were not captured whole are MalformedError. Bytes after the IP packet (link padding) and after a shorter UDP
    length are left out of the payload. A length field of zero is a super-packet of the kernel (GSO: IPv4 or IPv6
    TCP; jumbogram, RFC 2675) and reads as everything there is.

    A fragment that is not the first shows no transport header: its ports, flags and numbers are 0 and its payload is
    the fragment's bytes; `fragment(raw)` tells. Where it is IPv6, `proto` is what the fragment header names, which
    may be an extension header. The first fragment must hold all headers (RFC 1858, RFC 7112).
    """
    captured = len(raw)
    whole = captured if wire_length is None or wire_length < captured else wire_length
    if captured >= 40 and raw[0] == 0x45 and raw[9] == 6:
        length, fragment, src, dst, sport, dport, seq, ack, offset, flags = _TCP4(raw)
        start = 20 + (offset >> 4 << 2)
        if not fragment & 0x3FFF and 40 <= start <= length <= whole and start <= captured:
            missing = length - captured if length > captured else 0
            return _new(Packet, (4, 6, src, dst, sport, dport, flags, seq, ack, raw[start:length], length, missing))
    elif captured >= 60 and raw[0] >> 4 == 6 and raw[6] == 6:
        length, src, dst, sport, dport, seq, ack, offset, flags = _TCP6(raw)
        start = 40 + (offset >> 4 << 2)
        length += 40
        if 60 <= start <= length <= whole and start <= captured:
            missing = length - captured if length > captured else 0
            return _new(Packet, (6, 6, src, dst, sport, dport, flags, seq, ack, raw[start:length], length, missing))
    elif captured >= 28 and raw[0] == 0x45 and raw[9] == 17:
        length, fragment, src, dst, sport, dport, size = _UDP4(raw)
        if not fragment & 0x3FFF and 28 <= size + 20 == length <= captured:
            return _new(Packet, (4, 17, src, dst, sport, dport, 0, 0, 0, raw[28:length], length, 0))
    return _decode(raw, whole)


class Fragment(NamedTuple):
    offset: int  # bytes into the fragmentable part
    more: bool  # not the last one


def fragment(raw: bytes) -> Fragment | None:
    """Which part of its datagram a packet is, None for all of it. For packets that `decode` accepted; else
    MalformedError.

    An IPv6 atomic fragment (RFC 6946: offset 0, no more) is a whole packet.
    """
    if not raw or raw[0] >> 4 not in (4, 6):
        raise MalformedError("neither IPv4 nor IPv6")
    header = _ip4(raw, 1 << 32) if raw[0] >> 4 == 4 else _ip6(raw, 1 << 32)
    return Fragment(header.offset, header.more) if header.offset or header.more else None


def fragmented(raw: bytes) -> bool:
    """Whether a packet that `decode` accepted is a part of its datagram. Cheap: asked for every packet."""
    if raw[0] >> 4 == 4:
        return bool(raw[6] & 0x3F or raw[7])
    return raw[6] in EXTENSIONS and fragment(raw) is not None


def addresses(raw: bytes) -> tuple[int, bytes, bytes, int]:
    """(version, src, dst, proto) of a packet that `decode` refused, as far as they can be read; never raises.

    What cannot be read is 0 or b"". The protocol of IPv6 is that of the first header after the fixed one.
    """
    version = raw[0] >> 4 if raw else 0
    if version == 4:
        return 4, raw[12:16] if len(raw) >= 16 else b"", raw[16:20] if len(raw) >= 20 else b"", (raw[9:10] or b"\0")[0]
    if version == 6:
        return 6, raw[8:24] if len(raw) >= 24 else b"", raw[24:40] if len(raw) >= 40 else b"", (raw[6:7] or b"\0")[0]
    return 0, b"", b"", 0


# --- the general way --------------------------------------------------------------------------------------


class _Header(NamedTuple):
    """What the network layer says: the transport header stands at `start`, the packet ends at `end`."""

    proto: int
    src: bytes
    dst: bytes
    start: int
    end: int
    offset: int = 0  # of this fragment, bytes
    more: bool = False


class _Transport(NamedTuple):
    """What the transport layer says: its payload is start:end of the packet."""

    sport: int
    dport: int
    flags: int
    seq: int
    ack: int
    start: int
    end: int


def _decode(raw: bytes, whole: int) -> Packet:
    version = raw[0] >> 4 if raw else 0
    if version == 4:
        ip = _ip4(raw, whole)
    elif version == 6:
        ip = _ip6(raw, whole)
    else:
        raise MalformedError("neither IPv4 nor IPv6")
    if ip.offset:
        _check_later_fragment(ip)
        part = _Transport(0, 0, 0, 0, 0, ip.start, ip.end)
    elif ip.proto == TCP:
        part = _tcp(raw, ip)
    elif ip.proto == UDP:
        part = _udp(raw, ip)
    elif ip.proto == (ICMP if version == 4 else ICMPV6):
        part = _icmp(raw, ip)
    elif ip.proto == SCTP:
        part = _sctp(raw, ip)
    else:
        part = _Transport(0, 0, 0, 0, 0, ip.start, ip.end)
    sport, dport, flags, seq, ack, start, end = part
    missing = max(0, end - len(raw))
    return Packet(version, ip.proto, ip.src, ip.dst, sport, dport, flags, seq, ack, raw[start:end], ip.end, missing)


def _need(raw: bytes, upto: int, end: int, what: str) -> None:
    if upto > end:
        raise MalformedError(f"{what} runs past the end of the packet")
    if upto > len(raw):
        raise MalformedError(f"{what} was not captured whole")


def _ip4(raw: bytes, whole: int) -> _Header:
    _need(raw, 20, whole, "IPv4 header")
    length, fragment, proto, src, dst = _IP4(raw)
    start = (raw[0] & 15) << 2
    end = length or (whole if proto == TCP else 0)
    if start < 20 or end < start:
        raise MalformedError("IPv4 header length is wrong")
    if end > whole:
        raise MalformedError("IPv4 total length exceeds the packet")
    _need(raw, start, end, "IPv4 header")
    offset, more = (fragment & _OFFSET) << 3, bool(fragment & _MORE)
    if offset or more:
        _check_fragment(offset, more, end - start)
    return _Header(proto, src, dst, start, end, offset, more)


def _ip6(raw: bytes, whole: int) -> _Header:
    _need(raw, 40, whole, "IPv6 header")
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
            return _Header(proto, src, dst, start, end, offset, more)
        _need(raw, start + 8, end, "IPv6 extension header")
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
        _need(raw, start, end, "IPv6 extension header")
    if proto in EXTENSIONS and not offset:
        raise MalformedError("too many IPv6 extension headers")
    return _Header(proto, src, dst, start, end, offset, more)


def _jumbo_length(raw: bytes) -> int:
    """The payload length from the jumbo option of a hop-by-hop header at 40 (RFC 2675 section 2)."""
    _need(raw, 48, len(raw), "IPv6 extension header")
    at, end = 42, 40 + ((raw[41] + 1) << 3)
    _need(raw, end, len(raw), "IPv6 extension header")
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
        raise MalformedError("a fragment that is not the last is no multiple of 8 bytes")
    if offset + size > 0xFFFF:
        raise MalformedError("a fragment reaches past the largest datagram")


def _check_later_fragment(ip: _Header) -> None:
    """RFC 1858 section 4.2, RFC 3128: such a fragment can only rewrite the header the first one showed."""
    if ip.proto == TCP and ip.offset < 20:
        raise MalformedError("a fragment overlaps the TCP header")


def _tcp(raw: bytes, ip: _Header) -> _Transport:
    _need(raw, ip.start + 20, ip.end, "TCP header")
    sport, dport, seq, ack, offset, flags = _TCP(raw, ip.start)
    size = offset >> 4 << 2
    if size < 20:
        raise MalformedError("TCP data offset is below 5")
    _need(raw, ip.start + size, ip.end, "TCP header")
    return _Transport(sport, dport, flags, seq, ack, ip.start + size, ip.end)


def _udp(raw: bytes, ip: _Header) -> _Transport:
    _need(raw, ip.start + 8, ip.end, "UDP header")
    sport, dport, length = unpack_from("!HHH", raw, ip.start)
    end = ip.start + length if length else ip.end
    if length and length < 8:
        raise MalformedError("UDP length is below 8")
    if end > ip.end and not ip.more:
        raise MalformedError("UDP length exceeds the packet")
    return _Transport(sport, dport, 0, 0, 0, ip.start + 8, min(end, ip.end))


def _icmp(raw: bytes, ip: _Header) -> _Transport:
    _need(raw, ip.start + 8, ip.end, "ICMP header")
    kind, code, identifier = unpack_from("!BB2xH", raw, ip.start)
    echo = kind in (0, 8) if ip.proto == ICMP else kind in (128, 129)
    return _Transport(identifier if echo else 0, 0, kind << 8 | code, 0, 0, ip.start + 8, ip.end)


def _sctp(raw: bytes, ip: _Header) -> _Transport:
    _need(raw, ip.start + 12, ip.end, "SCTP header")
    sport, dport = unpack_from("!HH", raw, ip.start)
    return _Transport(sport, dport, 0, 0, 0, ip.start + 12, ip.end)
