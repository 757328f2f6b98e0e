"""Frames as the capturing host's own kernel hands them over: loopback, cooked captures, and logs of packet filters."""

from __future__ import annotations

from egress.capture.ethertype import by_version, ethertype, u16
from egress.errors import MalformedError

_FAMILIES = frozenset({2, 10, 24, 28, 30})  # AF_INET; AF_INET6 of Linux, NetBSD, FreeBSD, Darwin
_NFLOG_HEADER, _NFLOG_PAYLOAD = 4, 9  # a header, then attributes: length, type, value
_ENC_HEADER = 12  # OpenBSD: address family, SPI, flags


def null(frame: bytes) -> bytes | None:
    """BSD loopback: the address family in the byte order of the capturing host."""
    return by_version(frame, 4) if _family(frame) in _FAMILIES else None


def enc(frame: bytes) -> bytes | None:
    """The packets inside OpenBSD's IPsec: an address family as on the loopback interface, SPI and flags."""
    return by_version(frame, _ENC_HEADER) if _family(frame) in _FAMILIES else None


def sll(frame: bytes) -> bytes | None:
    """Linux's cooked capture, of interfaces without an own header and of `any`."""
    return ethertype(u16(frame, 14), frame, 16)


def sll2(frame: bytes) -> bytes | None:
    """The second version of the cooked capture."""
    return ethertype(u16(frame, 0), frame, 20)


def nflog(frame: bytes) -> bytes | None:
    """Netfilter's log (`tcpdump -i nflog:`): attributes in the capturing host's byte order; one is the packet."""
    if u16(frame, 0) >> 8 not in _FAMILIES:
        return None
    for order in ("<", ">"):
        at = _attribute(frame, order, _NFLOG_PAYLOAD)
        if at:
            return by_version(frame, at)
    raise MalformedError("no packet in a frame of the netfilter log")


def pflog(frame: bytes) -> bytes | None:
    """OpenBSD's packet filter log: a header that begins with its own length and the address family."""
    size = u16(frame, 0)
    return by_version(frame, (size >> 8) + 3 & ~3) if size & 0xFF in _FAMILIES else None


def _family(frame: bytes) -> int:
    """The address family in four bytes; read in the wrong order it is a huge number."""
    u16(frame, 2)
    return min(int.from_bytes(frame[:4], "little"), int.from_bytes(frame[:4], "big"))


def _attribute(frame: bytes, order: str, wanted: int) -> int:
    """Find the value of an attribute, with numbers in this byte order; 0 if the attributes make no sense in it."""
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
    return frame[at] << 8 | frame[at + 1] if order == ">" else frame[at + 1] << 8 | frame[at]
