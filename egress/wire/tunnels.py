"""Packets that carry packets in the clear: IP in IP, GRE, VXLAN and Geneve. Extracts the inner IP packet.

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
    """Return the IP packet inside a packet with this IP protocol and payload; None if the packet is not a tunnel's.

    Returns b"" for a tunnel that carries something other than IP. VXLAN and Geneve are recognised by their headers, on
    any UDP port. Never raises.
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
    """Return the payload if it begins like an IP packet of this version, else None."""
    return payload if payload and payload[0] >> 4 == version else None


def _behind(kind: int, payload: bytes, at: int) -> bytes:
    """Return the IP packet at an offset, behind EtherType `kind` or in an Ethernet frame; b"" if it is not IP."""
    return (ethernet(payload, at) if kind == _BRIDGED else ethertype(kind, payload, at)) or b""


def _gre(payload: bytes) -> bytes | None:
    """Return the IP packet in a GRE payload; b"" if it carries another protocol; None for version 1 or with routing."""
    flags, kind = u16(payload, 0), u16(payload, 2)
    if flags & (_VERSION | _ROUTING):  # version 1 is PPTP's, whose content is compressed or encrypted
        return None
    optional = (flags & _CHECKSUM > 0) + (flags & _KEY > 0) + (flags & _SEQUENCE > 0)
    return _behind(kind, payload, 4 + 4 * optional)


def _vxlan(payload: bytes) -> bytes | None:
    """Return the IP packet in a VXLAN payload; b"" if it carries another protocol; None if it is not VXLAN.

    Both extensions are read: the group policy (GBP) and the next protocol (GPE).
    """
    if len(payload) < 9 or payload[7] or not payload[0] & _VNI or payload[0] & ~(_VNI | _GROUP | _NEXT):
        return None
    if payload[0] & _NEXT:
        kind = 0 if payload[0] & _GROUP or payload[1] or payload[2] else _FOLLOWS.get(payload[3], 0)
    else:
        plain = payload[1:4] == b"\0\0\0" if not payload[0] & _GROUP else not payload[1] & ~_GROUP_BITS
        kind = _BRIDGED if plain else 0
    return _behind(kind, payload, 8) if kind else None


def _geneve(payload: bytes) -> bytes | None:
    """Return the IP packet in a Geneve payload; b"" if its frame is not IP; None if it is not Geneve."""
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
