"""Extracts the IP packet from frames of serial lines: PPP in HDLC frames, Cisco HDLC, and Frame Relay (RFC 2427).

Each function returns None for another protocol, and raises MalformedError for a frame that is cut short.
"""

from __future__ import annotations

from egress.errors import MalformedError
from egress.wire.ethertype import by_version, ethertype, llc, ppp, u16

_CISCO = (0x0F, 0x8F)  # Cisco HDLC's address: unicast, broadcast
_UNNUMBERED = 0x03  # Q.922 control: an unnumbered frame
_NLPID_SNAP, _NLPID_IPV4, _NLPID_IPV6 = 0x80, 0xCC, 0x8E
_NLPID_PPP = 0xCF  # RFC 1973
_MAX_ADDRESS = 4  # bytes of a Q.922 address


def cisco_hdlc(frame: bytes, at: int = 0) -> bytes | None:
    """Return the IP packet of a Cisco HDLC frame (address, control, EtherType), or else of a PPP frame."""
    if u16(frame, at) >> 8 not in _CISCO:
        return ppp(frame, at)
    return ethertype(u16(frame, at + 2), frame, at + 4)


def frame_relay(frame: bytes, at: int = 0) -> bytes | None:
    """Return the IP packet of a Frame Relay frame: RFC 2427, or Cisco's form with an EtherType after the address."""
    end = next((i + 1 for i in range(at, min(at + _MAX_ADDRESS, len(frame))) if frame[i] & 1), 0)
    if not end:
        raise MalformedError("a Frame Relay address without an end")
    if u16(frame, end) >> 8 != _UNNUMBERED:
        return ethertype(u16(frame, end), frame, end + 2)
    at = end + 1
    if not frame[at]:  # padding, so that the next field begins at an even byte
        at += 1
    protocol, at = u16(frame, at) >> 8, at + 1
    if protocol in (_NLPID_IPV4, _NLPID_IPV6):
        return by_version(frame, at)
    if protocol == _NLPID_SNAP:
        return llc(b"\xaa\xaa\x03" + frame[at:], 0)
    return ppp(frame, at) if protocol == _NLPID_PPP else None


def with_direction(frame: bytes) -> bytes | None:
    """Return the IP packet of a PPP or Cisco HDLC frame that follows a byte with its direction."""
    return cisco_hdlc(frame, 1)
