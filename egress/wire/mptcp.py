"""Multipath TCP (RFC 8684): removes its option from the segments that open a connection (SYN).

MPTCP spreads the bytes of one connection over several TCP connections (subflows), each of which shows only a part of
them. Both ends agree on it by an option in the SYN. Without that option they use ordinary TCP (RFC 8684 section 3.7),
and the peer refuses a subflow that asks to join a connection.
"""

from __future__ import annotations

from egress.errors import MalformedError
from egress.model import SYN, TCP
from egress.wire.ip import EXTENSIONS, header

MPTCP = 30  # the option's kind
_END, _NOP = 0, 1
_SHORTEST = 40  # bytes of a packet with IP and TCP headers
_FIXED = 20  # bytes of a TCP header without options
_CHECKSUM = 16  # its place in the header


def without_mptcp(raw: bytes) -> bytes | None:
    """Return a copy of an IP packet whose SYN has NOPs in place of its MPTCP options; None if nothing changes.

    None for a packet without such options, and for one that is no SYN, not whole or not valid. The copy has a valid TCP
    checksum. Never raises.
    """
    if len(raw) < _SHORTEST:
        return None
    if raw[0] >> 4 == 4:
        if raw[9] != TCP or (raw[0] == 0x45 and not raw[33] & SYN):
            return None
    elif raw[6] == TCP:
        if len(raw) < 60 or not raw[53] & SYN:
            return None
    elif raw[6] not in EXTENSIONS:
        return None
    return _rewritten(raw)


def _rewritten(raw: bytes) -> bytes | None:
    """Return the copy for a packet that may be a SYN, or None, after reading all its headers."""
    try:
        ip = header(raw, len(raw))
    except MalformedError:
        return None
    start, end = ip.start, ip.end
    if ip.proto != TCP or ip.offset or end > len(raw) or end - start < _FIXED or not raw[start + 13] & SYN:
        return None
    places = _options(raw, start + _FIXED, min(start + (raw[start + 12] >> 4 << 2), end))
    if not places:
        return None
    packet = bytearray(raw)
    for at, size in places:
        packet[at : at + size] = bytes((_NOP,)) * size
    packet[start + _CHECKSUM : start + _CHECKSUM + 2] = bytes(2)
    pseudo = ip.src + ip.dst + (end - start).to_bytes(4) + TCP.to_bytes(4)
    checksum = _checksum(pseudo + bytes(packet[start:end]))
    packet[start + _CHECKSUM : start + _CHECKSUM + 2] = checksum.to_bytes(2)
    return bytes(packet)


def _options(raw: bytes, at: int, end: int) -> list[tuple[int, int]]:
    """Return (offset, length) of each MPTCP option between two offsets; stop at an option of a wrong length."""
    found = []
    while at < end and raw[at] != _END:
        if raw[at] == _NOP:
            at += 1
            continue
        size = raw[at + 1] if at + 1 < end else 0
        if size < 2 or at + size > end:
            break
        if raw[at] == MPTCP:
            found.append((at, size))
        at += size
    return found


def _checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of `data`."""
    total = sum(int.from_bytes(data[at : at + 2].ljust(2, b"\0")) for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
