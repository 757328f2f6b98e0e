"""IP packets: bytes to `egress.model.Packet`. struct only, because every packet of every agent is read here.

A TCP segment without IP options or extension headers is read by one unpack, and so is a UDP datagram over IPv4 (the
fast path). All other packets take the general path below it, which states the same facts. Checksums are not verified:
a packet that was queued before segmentation offload has an unfinished one.

Three lengths are kept apart: `captured`, the bytes at hand; `whole`, the bytes of the packet on the wire; and `end`,
where it ends by its IP header. captured < end is a cut capture, whole > end is link padding, and whole < end is not
possible and raises MalformedError.
"""

from __future__ import annotations

from struct import Struct, unpack_from
from typing import NamedTuple

from egress.errors import MalformedError
from egress.model import ICMP, ICMPV6, SCTP, TCP, UDP, Packet
from egress.wire.ip import Header, header, need

_TCP4 = Struct("!2xH2xH4x4s4sHHLLBB").unpack_from  # IPv4 without options, then TCP
_TCP6 = Struct("!4xH2x16s16sHHLLBB").unpack_from  # IPv6 without extension headers, then TCP
_UDP4 = Struct("!2xH2xH4x4s4sHHH").unpack_from  # IPv4 without options, then UDP
_TCP = Struct("!HHLLBB").unpack_from
_new = tuple.__new__  # a NamedTuple's own constructor costs a second call


def decode(raw: bytes, wire_length: int | None = None) -> Packet:
    """Read one packet that begins with its IP header, or raise MalformedError.

    The headers are those of RFC 791, 8200, 9293, 768, 792, 4443 and 9260. `wire_length` is the length of the packet
    before the copy in `raw` was cut; None: `raw` is all of it. Only a cut copy may be shorter than the IP header says;
    then `Packet.missing` counts the absent payload bytes, and headers that are not whole raise MalformedError. The
    payload does not contain bytes after the IP packet (link padding) or after a shorter UDP length. A length field of
    zero is a super-packet of the kernel (GSO: IPv4 or IPv6 TCP; jumbogram, RFC 2675), which ends with its bytes.

    A fragment that is not the first shows no transport header: its ports, flags and numbers are 0, and its payload is
    the fragment's bytes (`egress.wire.fragments`). Of an IPv6 fragment `proto` is the number in the fragment header,
    which may be an extension header. The first fragment must hold all headers (RFC 1858, RFC 7112).
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


# --- the general path -------------------------------------------------------------------------------------


class _Transport(NamedTuple):
    """The fields of the transport header; its payload is start:end of the packet."""

    sport: int
    dport: int
    flags: int
    seq: int
    ack: int
    start: int
    end: int


def _decode(raw: bytes, whole: int) -> Packet:
    """Read a packet of `whole` bytes on the wire by the general path. Raises MalformedError."""
    ip = header(raw, whole)
    version = raw[0] >> 4
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


def _check_later_fragment(ip: Header) -> None:
    """Raise MalformedError for a fragment that can only rewrite the first one's TCP header (RFC 1858, RFC 3128)."""
    if ip.proto == TCP and ip.offset < 20:
        raise MalformedError("a fragment overlaps the TCP header")


def _tcp(raw: bytes, ip: Header) -> _Transport:
    """Read a TCP header (RFC 9293). Raises MalformedError."""
    need(raw, ip.start + 20, ip.end, "TCP header")
    sport, dport, seq, ack, offset, flags = _TCP(raw, ip.start)
    size = offset >> 4 << 2
    if size < 20:
        raise MalformedError("TCP data offset is below 5")
    need(raw, ip.start + size, ip.end, "TCP header")
    return _Transport(sport, dport, flags, seq, ack, ip.start + size, ip.end)


def _udp(raw: bytes, ip: Header) -> _Transport:
    """Read a UDP header (RFC 768). Raises MalformedError."""
    need(raw, ip.start + 8, ip.end, "UDP header")
    sport, dport, length = unpack_from("!HHH", raw, ip.start)
    end = ip.start + length if length else ip.end
    if length and length < 8:
        raise MalformedError("UDP length is below 8")
    if end > ip.end and not ip.more:
        raise MalformedError("UDP length exceeds the packet")
    return _Transport(sport, dport, 0, 0, 0, ip.start + 8, min(end, ip.end))


def _icmp(raw: bytes, ip: Header) -> _Transport:
    need(raw, ip.start + 8, ip.end, "ICMP header")
    kind, code, identifier = unpack_from("!BB2xH", raw, ip.start)
    echo = kind in (0, 8) if ip.proto == ICMP else kind in (128, 129)
    return _Transport(identifier if echo else 0, 0, kind << 8 | code, 0, 0, ip.start + 8, ip.end)


def _sctp(raw: bytes, ip: Header) -> _Transport:
    need(raw, ip.start + 12, ip.end, "SCTP header")
    sport, dport = unpack_from("!HH", raw, ip.start)
    return _Transport(sport, dport, 0, 0, 0, ip.start + 12, ip.end)
