"""Packets that carry packets in the clear: IP in IP, GRE, VXLAN and Geneve. The headers around the inner IP packet.

References: RFC 2003 and 4213 (IP in IP, 6in4), RFC 2784 and 2890 (GRE), RFC 7348 (VXLAN), RFC 8926 (Geneve).
"""

from __future__ import annotations

from collections.abc import Callable

from egress.errors import MalformedError
from egress.model import GRE, UDP
from egress.wire.ethertype import ethernet, ethertype, u16

IPIP, IP6 = 4, 41  # IP protocol numbers: an IPv4 or an IPv6 packet follows
_BRIDGED = 0x6558  # EtherType: an Ethernet frame follows (NVGRE, RFC 7637)
_VNI, _NEXT, _GROUP, _GROUP_BITS = 0x08, 0x04, 0x80, 0x48  # of VXLAN: flags, and those beside the group
_FOLLOWS = {1: 0x0800, 2: 0x86DD, 3: _BRIDGED}  # of VXLAN-GPE: EtherTypes by next protocol
_CHECKSUM, _KEY, _SEQUENCE, _ROUTING, _VERSION = 0x8000, 0x2000, 0x1000, 0x4000, 0x0007


def carried(proto: int, payload: bytes) -> bytes | None:
    """Return the IP packet in the payload of a packet of this IP protocol; b"": another one; None: it is no tunnel.

    VXLAN and Geneve are recognised by their header, on any UDP port.
    """
    try:
        if proto == UDP:
            inner = _vxlan(payload)
            return _geneve(payload) if inner is None else inner
        reader = _READERS.get(proto)
        return None if reader is None else reader(payload)
    except MalformedError:
        return None


def _ip(payload: bytes, version: int) -> bytes | None:
    return payload if payload and payload[0] >> 4 == version else None


def _behind(kind: int, payload: bytes, at: int) -> bytes:
    """Return the IP packet behind an EtherType, in a frame or without one; b"" for other contents."""
    return (ethernet(payload, at) if kind == _BRIDGED else ethertype(kind, payload, at)) or b""


def _gre(payload: bytes) -> bytes | None:
    flags, kind = u16(payload, 0), u16(payload, 2)
    if flags & (_VERSION | _ROUTING):  # version 1 is PPTP's, whose content is compressed or encrypted
        return None
    optional = (flags & _CHECKSUM > 0) + (flags & _KEY > 0) + (flags & _SEQUENCE > 0)
    return _behind(kind, payload, 4 + 4 * optional)


def _vxlan(payload: bytes) -> bytes | None:
    """Read VXLAN, also with a group (GBP), or with the protocol that follows (GPE)."""
    if len(payload) < 9 or payload[7] or not payload[0] & _VNI or payload[0] & ~(_VNI | _GROUP | _NEXT):
        return None
    if payload[0] & _NEXT:
        kind = 0 if payload[0] & _GROUP or payload[1] or payload[2] else _FOLLOWS.get(payload[3], 0)
    else:
        plain = payload[1:4] == b"\0\0\0" if not payload[0] & _GROUP else not payload[1] & ~_GROUP_BITS
        kind = _BRIDGED if plain else 0
    return _behind(kind, payload, 8) if kind else None


def _geneve(payload: bytes) -> bytes | None:
    if len(payload) < 8 or payload[0] >> 6 or payload[1] & 0x3F or payload[7]:
        return None
    kind, end = u16(payload, 2), 8 + 4 * (payload[0] & 0x3F)
    if kind not in (_BRIDGED, 0x0800, 0x86DD) or len(payload) <= end:
        return None
    return _behind(kind, payload, end)


_READERS: dict[int, Callable[[bytes], bytes | None]] = {
    IPIP: lambda payload: _ip(payload, 4),
    IP6: lambda payload: _ip(payload, 6),
    GRE: _gre,
}
