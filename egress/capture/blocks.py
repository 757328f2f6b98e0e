"""Writes pcapng (draft-ietf-opsawg-pcapng): one section, a raw-IP interface, packets with comments."""

from __future__ import annotations

import struct

from egress.model import Direction

LINKTYPE_RAW = 101

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_COMMENT, _FLAGS = 1, 2
_MAX_COMMENT = 0xFFFF


def header(comment: str = "") -> bytes:
    """Return the beginning of a file: a section header with a comment (at most 65,535 bytes), and one interface."""
    options = _option(_COMMENT, _cut(comment)) + _END if comment else b""
    section = _block(_SECTION, struct.pack("=IHHq", 0x1A2B3C4D, 1, 0, -1) + options)
    return section + _block(_INTERFACE, struct.pack("=HHI", LINKTYPE_RAW, 0, 0))


def packet(raw: bytes, length: int, micros: int, direction: Direction, comment: str = "") -> bytes:
    """Return the block of an IP packet, with a comment of at most 65,535 bytes.

    `raw` has the first bytes of the packet, or all; `length` is its size on the wire. `micros` is its time, in
    microseconds since the epoch.
    """
    body = struct.pack("=IIIII", 0, micros >> 32, micros & 0xFFFFFFFF, len(raw), max(length, len(raw))) + _pad(raw)
    body += _option(_FLAGS, struct.pack("=I", 2 if direction is Direction.OUT else 1))
    body += _option(_COMMENT, _cut(comment)) if comment else b""
    return _block(_PACKET, body + _END)


_END = struct.pack("=HH", 0, 0)


def _cut(comment: str) -> bytes:
    """Return a comment as at most `_MAX_COMMENT` bytes of UTF-8."""
    return comment.encode("utf-8", "replace")[:_MAX_COMMENT]


def _block(kind: int, body: bytes) -> bytes:
    """Return a block: its type, its length, its body, and its length again."""
    length = 12 + len(body)
    return struct.pack("=II", kind, length) + body + struct.pack("=I", length)


def _option(code: int, value: bytes) -> bytes:
    """Return an option of a block, padded."""
    return struct.pack("=HH", code, len(value)) + _pad(value)


def _pad(value: bytes) -> bytes:
    """Return bytes with zeros appended, to a multiple of 4."""
    return value + bytes(-len(value) % 4)
