"""Extracts the IP packet from pseudo link layers of the host's own kernel: loopback, cooked captures, filter logs.

Each function returns None for another protocol, and raises MalformedError for a frame that is cut short.
"""

from __future__ import annotations

from egress.errors import MalformedError
from egress.wire.ethertype import by_version, ethertype, u16

_FAMILIES = frozenset({2, 10, 24, 28, 30})  # AF_INET; AF_INET6 of Linux, NetBSD, FreeBSD, Darwin
_NFLOG_HEADER, _NFLOG_PAYLOAD = 4, 9  # a header, then attributes: length, type, value
_ENC_HEADER = 12  # OpenBSD: address family, SPI, flags


def null(frame: bytes) -> bytes | None:
    """Return the IP packet of a BSD loopback frame, behind an address family in the capturing host's byte order."""
    return by_version(frame, 4) if _family(frame) in _FAMILIES else None


def enc(frame: bytes) -> bytes | None:
    """Return the IP packet of a frame of OpenBSD's IPsec interface, behind address family, SPI and flags."""
    return by_version(frame, _ENC_HEADER) if _family(frame) in _FAMILIES else None


def sll(frame: bytes) -> bytes | None:
    """Return the IP packet of a Linux cooked capture (interface `any`, and interfaces without a link header)."""
    return ethertype(u16(frame, 14), frame, 16)


def sll2(frame: bytes) -> bytes | None:
    """Return the IP packet of the second version of the cooked capture."""
    return ethertype(u16(frame, 0), frame, 20)


def nflog(frame: bytes) -> bytes | None:
    """Return the IP packet of a frame of netfilter's log (`tcpdump -i nflog:`), which is one of its attributes.

    Attributes are in the capturing host's byte order.
    """
    if u16(frame, 0) >> 8 not in _FAMILIES:
        return None
    for order in ("<", ">"):
        at = _attribute(frame, order, _NFLOG_PAYLOAD)
        if at:
            return by_version(frame, at)
    raise MalformedError("no packet in a frame of the netfilter log")


def pflog(frame: bytes) -> bytes | None:
    """Return the IP packet of a frame of OpenBSD's packet filter log; the header has its length and address family."""
    size = u16(frame, 0)
    return by_version(frame, (size >> 8) + 3 & ~3) if size & 0xFF in _FAMILIES else None


def _family(frame: bytes) -> int:
    """Return the address family in the first four bytes, of either byte order: the smaller of the two readings."""
    u16(frame, 2)
    return min(int.from_bytes(frame[:4], "little"), int.from_bytes(frame[:4], "big"))


def _attribute(frame: bytes, order: str, wanted: int) -> int:
    """Return the offset of an attribute's value, with numbers in this byte order; 0 if it is not found."""
    at = _NFLOG_HEADER
    while at + 4 <= len(frame):
        length, kind = _number(frame, at, order), _number(frame, at + 2, order)
        if length < 4:
            return 0
        if kind & 0x7FFF == wanted:  # above: a flag for attributes in attributes
            return at + 4
        at += length + 3 & ~3
    return 0


def _number(frame: bytes, at: int, order: str) -> int:
    """Return the number in two bytes at `at`, in the byte order `>` or `<`."""
    return frame[at] << 8 | frame[at + 1] if order == ">" else frame[at + 1] << 8 | frame[at]
