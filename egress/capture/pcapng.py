"""The pcapng format (draft-ietf-opsawg-pcapng): sections, interfaces, and the three kinds of packet block.

Every block states its length twice. A block with contradicting lengths ends the reading; unknown blocks are skipped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from egress.capture.frame import MAX_FRAME, UNKNOWN_LINK, Frame, TruncatedError

SECTION_HEADER = b"\x0a\x0d\x0d\x0a"  # a palindrome: equal in both byte orders

_INTERFACE, _PACKET, _SIMPLE_PACKET, _ENHANCED_PACKET = 1, 2, 3, 6
_OPTION_END, _OPTION_TSRESOL, _OPTION_TSOFFSET = 0, 9, 14
_MAX_INTERFACES = 65_536  # of a section; the packets of others have an unknown link type
_MAX_BODY = MAX_FRAME + 4096  # with room for the packet's options; the rest of a longer block is skipped
_SKIP = 65_536


class Interface(NamedTuple):
    """An interface description block: the link type, and the unit of the timestamps."""

    link: int
    snaplen: int  # 0: no limit
    ticks: int  # timestamp units in a second (if_tsresol)
    offset: int  # seconds to add (if_tsoffset)


_NO_INTERFACE = Interface(UNKNOWN_LINK, 0, 1_000_000, 0)


def pcapng_frames(stream: BinaryIO) -> Iterator[Frame]:
    """Yield the frames of a stream whose first four bytes, the type of a section header block, are already read.

    Raises TruncatedError where the file is damaged.
    """
    order = ""
    interfaces: list[Interface] = []
    number, ts = 0, 0.0
    kind_bytes = SECTION_HEADER
    while kind_bytes:
        if kind_bytes == SECTION_HEADER:
            order, interfaces = _section(stream), []
        elif len(kind_bytes) < 4:
            raise TruncatedError(f"cut short after frame {number}")
        else:
            kind: int = struct.unpack(order + "I", kind_bytes)[0]
            body = _body(stream, order, number)
            if kind == _INTERFACE and len(interfaces) < _MAX_INTERFACES:
                interfaces.append(_interface(order, body))
            elif kind in _PACKETS:
                number += 1
                frame = _PACKETS[kind](order, body, interfaces, Frame(number, ts, UNKNOWN_LINK, b"", 0))
                ts = frame.ts
                yield frame
        kind_bytes = stream.read(4)


def _section(stream: BinaryIO) -> str:
    """Read the rest of a section header block, and return the section's byte order. Raises TruncatedError."""
    head = stream.read(8)
    order = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}.get(head[4:8])
    if order is None:
        raise TruncatedError("a section header is cut short or has no byte order")
    length: int = struct.unpack_from(order + "I", head)[0]
    if length < 28 or length % 4:
        raise TruncatedError(f"a section header claims {length} bytes")
    body = _take(stream, length - 12)
    if struct.unpack_from(order + "H", body)[0] != 1:
        raise TruncatedError("a section is of an unknown version of pcapng")
    return order


def _body(stream: BinaryIO, order: str, number: int) -> bytes:
    """Read a block from its length field on, and return its body, cut to `_MAX_BODY`. Raises TruncatedError."""
    head = stream.read(4)
    length: int = struct.unpack(order + "I", head)[0] if len(head) == 4 else 0
    if length < 12 or length % 4:
        raise TruncatedError(f"a block after frame {number} is cut short or claims {length} bytes")
    body = _take(stream, length - 8)
    if len(body) == length - 8:
        if body[-4:] != head:
            raise TruncatedError(f"a block after frame {number} contradicts itself about its length")
        body = body[:-4]
    return body


def _take(stream: BinaryIO, size: int) -> bytes:
    """Read `size` bytes of a block, and return the first `_MAX_BODY` of them. Raises TruncatedError."""
    body = stream.read(min(size, _MAX_BODY))
    left = size - len(body)
    while left and (skipped := stream.read(min(left, _SKIP))):
        left -= len(skipped)
    if left:
        raise TruncatedError("cut short inside a block")
    return body


def _interface(order: str, body: bytes) -> Interface:
    """Read an interface description block; one that is too short has an unknown link type."""
    if len(body) < 8:
        return _NO_INTERFACE
    link, snaplen = struct.unpack_from(order + "H2xI", body)
    ticks, offset = 1_000_000, 0
    for code, value in _options(order, body, 8):
        if code == _OPTION_TSRESOL and len(value) == 1:
            ticks = 2 ** (value[0] & 0x7F) if value[0] & 0x80 else 10 ** value[0]
        elif code == _OPTION_TSOFFSET and len(value) == 8:
            offset = struct.unpack(order + "q", value)[0]
    return Interface(link, snaplen, ticks, offset)


def _options(order: str, body: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """Yield the code and value of each option from offset `at` on, up to the end mark or the end of the block."""
    while at + 4 <= len(body):
        code, length = struct.unpack_from(order + "HH", body, at)
        if code == _OPTION_END:
            return
        yield code, body[at + 4 : at + 4 + length]
        at += 4 + (length + 3 & ~3)


def _enhanced(order: str, body: bytes, interfaces: list[Interface], blank: Frame) -> Frame:
    """Read an enhanced packet block, as `_stamped`."""
    return _stamped(struct.Struct(order + "IIIII"), body, interfaces, blank)


def _obsolete(order: str, body: bytes, interfaces: list[Interface], blank: Frame) -> Frame:
    """Read a packet block of the old form (type 2), as `_stamped`."""
    return _stamped(struct.Struct(order + "H2xIIII"), body, interfaces, blank)


def _stamped(fields: struct.Struct, body: bytes, interfaces: list[Interface], blank: Frame) -> Frame:
    """Read a packet block that has interface and time; return `blank` if the block is too short for its fields."""
    if len(body) < fields.size:
        return blank
    index, high, low, captured, original = fields.unpack_from(body)
    interface = interfaces[index] if index < len(interfaces) else _NO_INTERFACE
    whole, rest = divmod(high << 32 | low, interface.ticks)
    ts = float(interface.offset + whole) + rest / interface.ticks
    return _frame(blank._replace(ts=ts, link=interface.link), body, fields.size, captured, original)


def _simple(order: str, body: bytes, interfaces: list[Interface], blank: Frame) -> Frame:
    """Read a packet block without time, on the section's first interface; its time is that of the packet before."""
    if len(body) < 4:
        return blank
    original: int = struct.unpack_from(order + "I", body)[0]
    interface = interfaces[0] if interfaces else _NO_INTERFACE
    captured = min(original, interface.snaplen) if interface.snaplen else original
    return _frame(blank._replace(link=interface.link), body, 4, captured, original)


def _frame(blank: Frame, body: bytes, at: int, captured: int, original: int) -> Frame:
    """Return `blank` with the packet in the block at `at`: `captured` bytes, of `original` on the wire."""
    data = body[at : at + min(captured, MAX_FRAME)]
    return blank._replace(data=data, wire_length=max(original, captured, len(data)))


_PACKETS = {_PACKET: _obsolete, _SIMPLE_PACKET: _simple, _ENHANCED_PACKET: _enhanced}
