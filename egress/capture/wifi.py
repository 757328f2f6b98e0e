"""Extracts the IP packet from 802.11 frames, bare and behind the headers of drivers (radiotap, Prism, AVS).

Each public function returns None for frames without a packet, and raises MalformedError, as `ieee80211` does.
"""

from __future__ import annotations

import struct

from egress.errors import MalformedError
from egress.wire.ethertype import llc, u16

_DATA = 2  # the type of frames that carry packets
_NO_DATA, _QOS = 0x40, 0x80  # bits of a data frame's subtype, as they stand in its first byte
_TO_DS, _FROM_DS, _MORE_FRAGMENTS, _PROTECTED, _ORDER = 0x01, 0x02, 0x04, 0x40, 0x80  # bits of the second byte
_AGGREGATE = 0x80  # bit of the QoS control: several packets in one frame (A-MSDU)
_HEADER, _ADDRESS, _QOS_CONTROL, _HT_CONTROL, _SUBFRAME = 24, 6, 2, 4, 14
_TSFT, _FLAGS, _MORE = 1, 2, 1 << 31  # bits of radiotap's map of fields
_DATA_PAD = 0x20  # bit of radiotap's flags: the header is padded to a multiple of 4
_AVS = (b"\x80\x21\x10\x01", b"\x80\x21\x10\x02")


def ieee80211(frame: bytes, at: int = 0, *, padded: bool = False) -> bytes | None:
    """Return the IP packet of an 802.11 frame at `at`; None for frames that carry none (management, control).

    `padded`: the frame's header is padded to a multiple of 4 bytes. Raises MalformedError for data that cannot be
    read: encrypted, a part of a packet, or several packets.
    """
    kind, flags = u16(frame, at) >> 8, frame[at + 1]
    if kind >> 2 & 3 != _DATA or kind & _NO_DATA:
        return None
    if flags & _PROTECTED:
        raise MalformedError("an encrypted 802.11 frame")
    if flags & _MORE_FRAGMENTS or u16(frame, at + 22) >> 8 & 0x0F:
        raise MalformedError("a fragment of an 802.11 frame")
    size = _HEADER + (_ADDRESS if flags & _TO_DS and flags & _FROM_DS else 0)
    aggregate = False
    if kind & _QOS:
        aggregate = u16(frame, at + size) >> 8 & _AGGREGATE > 0
        size += _QOS_CONTROL + (_HT_CONTROL if flags & _ORDER else 0)
    if padded:
        size += -size % 4
    if aggregate:
        size += _subframe(frame, at + size)
    return llc(frame, at + size)


def _subframe(frame: bytes, at: int) -> int:
    """Return the size of the header of the only packet in an aggregate. Raises MalformedError for more than one."""
    length = u16(frame, at + 12)
    if len(frame) - at - _SUBFRAME - length > 4 + 3:  # a frame check sequence and padding may follow
        raise MalformedError("an 802.11 frame with several packets")
    return _SUBFRAME


def radiotap(frame: bytes) -> bytes | None:
    """Return the IP packet of an 802.11 frame behind a radiotap header (radiotap.org)."""
    if len(frame) < 8:
        raise MalformedError("link header cut short")
    size, present = struct.unpack_from("<HI", frame, 2)
    first, at = present, 8
    while present & _MORE:
        present = _u32(frame, at)
        at += 4
    if first & _TSFT:
        at += -at % 8 + 8
    padded = bool(first & _FLAGS) and at < min(size, len(frame)) and frame[at] & _DATA_PAD > 0
    return ieee80211(frame, size, padded=padded)


def prism(frame: bytes) -> bytes | None:
    """Return the IP packet of an 802.11 frame behind a Prism header, or an AVS header in its place."""
    return avs(frame) if frame[:4] in _AVS else ieee80211(frame, _u32(frame, 4))


def avs(frame: bytes) -> bytes | None:
    """Return the IP packet of an 802.11 frame behind an AVS header."""
    return ieee80211(frame, u16(frame, 6))


def _u32(frame: bytes, at: int) -> int:
    """Return the number in four bytes at `at`, least significant first."""
    u16(frame, at + 2)
    return int.from_bytes(frame[at : at + 4], "little")
