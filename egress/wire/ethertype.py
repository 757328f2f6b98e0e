"""Extracts the IP packet behind an EtherType (IEEE 802 numbers, IANA): VLAN tags, MPLS labels, PPPoE and LLC.

Packets are returned with any padding after them. Headers that are cut short raise MalformedError.
"""

from __future__ import annotations

from egress.errors import MalformedError

_ETHER_IPV4, _ETHER_IPV6 = 0x0800, 0x86DD
_VLAN = frozenset({0x8100, 0x88A8, 0x9100, 0x9200})  # 802.1Q, 802.1ad and its predecessors
_PPPOE_SESSION = 0x8864
_MPLS = frozenset({0x8847, 0x8848})
_LLC_SNAP = b"\xaa\xaa\x03\x00\x00"  # 802.2 header that announces an EtherType (RFC 1042; 802.1H ends in f8)
_LLC_IPV4 = b"\x06\x06\x03"
_PPP_IPV4, _PPP_IPV6 = 0x21, 0x57
_MAX_TAGS = 16  # more VLAN tags or MPLS labels than this are malformed


def ethernet(frame: bytes, at: int = 0) -> bytes | None:
    """Return the IP packet of an Ethernet frame that begins at `at`; None if it carries another protocol."""
    kind = u16(frame, at + 12)
    return llc(frame, at + 14) if kind < 0x0600 else ethertype(kind, frame, at + 14)  # 802.3: the field is a length


def llc(frame: bytes, at: int) -> bytes | None:
    """Return the IP packet behind an 802.2 header at `at`; None for another protocol."""
    if frame[at : at + 5] == _LLC_SNAP and frame[at + 5 : at + 6] in (b"\x00", b"\xf8"):
        return ethertype(u16(frame, at + 6), frame, at + 8)
    return by_version(frame, at + 3) if frame[at : at + 3] == _LLC_IPV4 else None


def ethertype(kind: int, frame: bytes, at: int) -> bytes | None:
    """Return the IP packet behind EtherType `kind`, whose payload starts at `at`; None for another protocol.

    VLAN tags, MPLS labels and PPPoE headers between them are skipped.
    """
    for _ in range(_MAX_TAGS):
        if kind in (_ETHER_IPV4, _ETHER_IPV6):
            return by_version(frame, at)
        if kind in _VLAN:
            kind, at = u16(frame, at + 2), at + 4
        elif kind in _MPLS:
            return mpls(frame, at)
        elif kind == _PPPOE_SESSION:
            return ppp(frame, at + 6)
        else:
            return None
    raise MalformedError("too many VLAN tags")


def mpls(frame: bytes, at: int = 0) -> bytes | None:
    """Return the IP packet behind a stack of MPLS labels at `at`; None if no IP header follows."""
    for _ in range(_MAX_TAGS):
        bottom = u16(frame, at + 2) & 0x0100
        at += 4
        if bottom:  # no field names the payload: IP if its first nibble is a version, else a pseudowire (RFC 4928)
            return frame[at:] if frame[at : at + 1] and frame[at] >> 4 in (4, 6) else None
    raise MalformedError("too many MPLS labels")


def ppp(frame: bytes, at: int = 0) -> bytes | None:
    """Return the IP packet of a PPP frame at `at`; None if it carries another protocol (RFC 1661).

    The frame may begin with the address and control bytes of HDLC (RFC 1662).
    """
    if frame[at : at + 2] == b"\xff\x03":
        at += 2
    if frame[at : at + 1] and frame[at] & 1:  # protocol field compression (RFC 1661 section 6.5)
        protocol, at = frame[at], at + 1
    else:
        protocol, at = u16(frame, at), at + 2
    return by_version(frame, at) if protocol in (_PPP_IPV4, _PPP_IPV6) else None


def by_version(frame: bytes, at: int = 0) -> bytes:
    """Return the bytes from `at` on. Raises MalformedError if no IP header begins there."""
    if len(frame) <= at:
        raise MalformedError("no room for an IP header")
    if frame[at] >> 4 not in (4, 6):
        raise MalformedError(f"IP version {frame[at] >> 4}")
    return frame[at:]


def u16(frame: bytes, at: int) -> int:
    """Return the number in two bytes at `at`, in network order. Raises MalformedError if the frame is shorter."""
    if len(frame) < at + 2:
        raise MalformedError("link header cut short")
    return frame[at] << 8 | frame[at + 1]
