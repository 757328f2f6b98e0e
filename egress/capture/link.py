"""Extracts the IP packet from a captured frame, for the link layers that captures are made on.

Numbers are LINKTYPE_ values (tcpdump.org/linktypes.html) and EtherTypes (IEEE 802 numbers, IANA).
"""

from __future__ import annotations

from egress.errors import MalformedError

NULL, ETHERNET, PPP, RAW, LOOP, LINUX_SLL, IPV4, IPV6, LINUX_SLL2 = 0, 1, 9, 101, 108, 113, 228, 229, 276

_RAW_TYPES = frozenset({12, 14, RAW, IPV4, IPV6})  # 12 and 14: the DLT_RAW of BSDs
_ETHER_IPV4, _ETHER_IPV6 = 0x0800, 0x86DD
_VLAN = frozenset({0x8100, 0x88A8, 0x9100, 0x9200})  # 802.1Q, 802.1ad and its predecessors
_PPPOE_SESSION = 0x8864
_MPLS = frozenset({0x8847, 0x8848})
_LLC_SNAP = b"\xaa\xaa\x03\x00\x00\x00"  # 802.2 header that announces an EtherType (RFC 1042)
_PPP_IPV4, _PPP_IPV6 = 0x21, 0x57
_BSD_FAMILIES = frozenset({2, 10, 24, 28, 30})  # AF_INET; AF_INET6 of Linux, NetBSD, FreeBSD, Darwin
_MAX_TAGS = 16  # more VLAN tags or MPLS labels than this are malformed


def supported(link: int) -> bool:
    """Test whether frames of this link type can be read."""
    return link in _RAW_TYPES or link in _READERS


def ip_packet(link: int, frame: bytes) -> bytes | None:
    """The IP packet of a frame, padding included; None if the frame carries another protocol (ARP, LLDP, …).

    Raises MalformedError if the frame is too short for its headers, or of an unsupported link type.
    """
    if link in _RAW_TYPES:
        return _by_version(frame, 0)
    if link not in _READERS:
        raise MalformedError(f"link type {link} is not supported")
    return _READERS[link](frame)


def _ethernet(frame: bytes) -> bytes | None:
    kind, at = _u16(frame, 12), 14
    if kind < 0x0600 and frame[at : at + 6] == _LLC_SNAP:  # 802.3: the field was a length
        kind, at = _u16(frame, 20), 22
    return _ethertype(kind, frame, at)


def _sll(frame: bytes) -> bytes | None:
    return _ethertype(_u16(frame, 14), frame, 16)


def _sll2(frame: bytes) -> bytes | None:
    return _ethertype(_u16(frame, 0), frame, 20)


def _ethertype(kind: int, frame: bytes, at: int) -> bytes | None:
    """Follow tags from EtherType `kind`, whose payload starts at `at`."""
    for _ in range(_MAX_TAGS):
        if kind in (_ETHER_IPV4, _ETHER_IPV6):
            return _by_version(frame, at)
        if kind in _VLAN:
            kind, at = _u16(frame, at + 2), at + 4
        elif kind in _MPLS:
            return _mpls(frame, at)
        elif kind == _PPPOE_SESSION:
            return _ppp(frame[at + 6 :])
        else:
            return None
    raise MalformedError("too many VLAN tags")


def _mpls(frame: bytes, at: int) -> bytes | None:
    for _ in range(_MAX_TAGS):
        bottom = _u16(frame, at + 2) & 0x0100
        at += 4
        if bottom:  # no field names the payload: IP if its first nibble is a version, else a pseudowire (RFC 4928)
            return frame[at:] if frame[at : at + 1] and frame[at] >> 4 in (4, 6) else None
    raise MalformedError("too many MPLS labels")


def _ppp(frame: bytes) -> bytes | None:
    at = 2 if frame[:2] == b"\xff\x03" else 0  # HDLC address and control
    if frame[at : at + 1] and frame[at] & 1:  # protocol field compression (RFC 1661 section 6.5)
        protocol, at = frame[at], at + 1
    else:
        protocol, at = _u16(frame, at), at + 2
    return _by_version(frame, at) if protocol in (_PPP_IPV4, _PPP_IPV6) else None


def _null(frame: bytes) -> bytes | None:
    """BSD loopback: the address family in the byte order of the capturing host; the wrong order gives a huge number."""
    _u16(frame, 2)
    family = min(int.from_bytes(frame[:4], "little"), int.from_bytes(frame[:4], "big"))
    return _by_version(frame, 4) if family in _BSD_FAMILIES else None


def _by_version(frame: bytes, at: int) -> bytes:
    if len(frame) <= at:
        raise MalformedError("no room for an IP header")
    if frame[at] >> 4 not in (4, 6):
        raise MalformedError(f"IP version {frame[at] >> 4}")
    return frame[at:]


def _u16(frame: bytes, at: int) -> int:
    if len(frame) < at + 2:
        raise MalformedError("link header cut short")
    return frame[at] << 8 | frame[at + 1]


_READERS = {
    NULL: _null,
    LOOP: _null,
    ETHERNET: _ethernet,
    PPP: _ppp,
    LINUX_SLL: _sll,
    LINUX_SLL2: _sll2,
}
