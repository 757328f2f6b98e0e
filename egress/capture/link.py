"""Extracts the IP packet from a captured frame, for the link layers that captures are made on.

Numbers are LINKTYPE_ values (tcpdump.org/linktypes.html).
"""

from __future__ import annotations

from collections.abc import Callable

from egress.capture.frame import UNKNOWN_LINK
from egress.capture.hosts import enc, nflog, null, pflog, sll, sll2
from egress.capture.linknames import NAMES
from egress.capture.serial import cisco_hdlc, frame_relay, with_direction
from egress.capture.wifi import avs, ieee80211, prism, radiotap
from egress.errors import MalformedError
from egress.wire.ethertype import by_version, ethernet, ethertype, llc, mpls, ppp, u16


def supported(link: int) -> bool:
    """Return True if frames of this link type can be read."""
    return link in _READERS or link in _WRAPPERS


def link_name(link: int) -> str:
    """Return the name of a link type for a message, as in `link type 189 (USB_LINUX)`."""
    if link == UNKNOWN_LINK:
        return "an unknown link type"
    name = NAMES.get(link, "")
    return f"link type {link} ({name})" if name else f"link type {link}"


def ip_packet(link: int, frame: bytes) -> bytes | None:
    """Return the IP packet of a frame, padding included; None if the frame carries another protocol (ARP, LLDP, …).

    Raises MalformedError if the frame is too short for its headers, or of an unsupported link type.
    """
    wrapper = _WRAPPERS.get(link)
    if wrapper is not None:
        link, frame = wrapper(frame)
    reader = _READERS.get(link)
    if reader is None:
        raise MalformedError(f"{link_name(link)} is not supported")
    return reader(frame)


def _token_ring(frame: bytes) -> bytes | None:
    """Return the IP packet of a Token Ring frame, behind its route if it has one; None for another protocol."""
    u16(frame, 14)
    route = frame[14] & 0x1F if frame[8] & 0x80 else 0  # the source address says that a route follows
    return llc(frame, 14 + route)


def _ppi(frame: bytes) -> tuple[int, bytes]:
    """Remove the Per-Packet Information header: return the link type that it states, and the frame behind it."""
    return _wrapped(frame, int.from_bytes(frame[4:8], "little"), int.from_bytes(frame[2:4], "little"), 8)


def _pktap(frame: bytes) -> tuple[int, bytes]:
    """Remove the header of Darwin's pktap interface: return the link type that it states, and the frame behind it."""
    return _wrapped(frame, int.from_bytes(frame[8:12], "little"), int.from_bytes(frame[:4], "little"), 12)


def _wrapped(frame: bytes, link: int, size: int, least: int) -> tuple[int, bytes]:
    """Return the link type, and the frame without its header of `size` bytes.

    Raises MalformedError unless `size` is at least `least` and at most the size of the frame.
    """
    if not least <= size <= len(frame):
        raise MalformedError("link header cut short")
    return link, frame[size:]


_READERS: dict[int, Callable[[bytes], bytes | None]] = {
    0: null,
    1: ethernet,
    6: _token_ring,
    9: ppp,
    10: lambda frame: llc(frame, 13),  # FDDI
    12: by_version,  # 12 and 14: the DLT_RAW of BSDs
    14: by_version,
    50: cisco_hdlc,  # PPP in HDLC-like frames
    51: lambda frame: ppp(frame, 6),  # PPPoE without Ethernet
    99: lambda frame: ethertype(u16(frame, 6), frame, 44),  # Symantec's firewall
    100: lambda frame: llc(frame, 0),  # ATM, RFC 1483
    101: by_version,
    104: cisco_hdlc,
    105: ieee80211,
    107: frame_relay,
    108: null,
    109: enc,
    113: sll,
    117: pflog,
    119: prism,
    127: radiotap,
    138: lambda frame: ethertype(u16(frame, 16), frame, 18),  # IP over FireWire
    122: lambda frame: llc(frame, 16),  # IP over Fibre Channel
    163: avs,
    166: with_direction,
    204: with_direction,
    205: with_direction,
    206: lambda frame: frame_relay(frame, 1),
    219: mpls,
    226: lambda frame: by_version(frame, 24),  # Solaris
    228: by_version,
    229: by_version,
    239: nflog,
    240: lambda frame: ethernet(frame, 4),  # Hilscher's analyser; 241 with the preamble
    241: lambda frame: ethernet(frame, 12),
    274: lambda frame: ethernet(frame, 8),  # Ethernet with its preamble
    276: sll2,
    281: lambda frame: ethertype(u16(frame, 16), frame, 18),  # with the tags of switches
    282: lambda frame: ethernet(frame, 4),
    284: lambda frame: ethertype(u16(frame, 16), frame, 18),
    285: lambda frame: ethertype(u16(frame, 20), frame, 22),
}
_WRAPPERS: dict[int, Callable[[bytes], tuple[int, bytes]]] = {192: _ppi, 258: _pktap}
