"""The classic pcap format (draft-ietf-opsawg-pcap): microseconds or nanoseconds, either byte order.

A "modified" pcap (of old Linux distributions) has records of 24 bytes: interface, protocol and packet type follow the
lengths.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from egress.capture.frame import MAX_FRAME, Frame, NotACaptureError, TruncatedError

_HEADER = 20  # bytes of the file header after the magic number
_RECORD, _MODIFIED = "IIII", "IIII8x"
_FORMATS = {  # magic number as it stands in the file -> byte order, fractions of a second, header of a record
    b"\xa1\xb2\xc3\xd4": (">", 1_000_000, _RECORD),
    b"\xd4\xc3\xb2\xa1": ("<", 1_000_000, _RECORD),
    b"\xa1\xb2\x3c\x4d": (">", 1_000_000_000, _RECORD),
    b"\x4d\x3c\xb2\xa1": ("<", 1_000_000_000, _RECORD),
    b"\xa1\xb2\xcd\x34": (">", 1_000_000, _MODIFIED),
    b"\x34\xcd\xb2\xa1": ("<", 1_000_000, _MODIFIED),
}


def pcap_frames(magic: bytes, stream: BinaryIO) -> Iterator[Frame]:
    """Yield the frames that follow `magic`, the file's first four bytes, which are read already.

    Raises NotACaptureError for another format, TruncatedError where the file is damaged.
    """
    if magic not in _FORMATS:
        raise NotACaptureError("the file is neither pcap nor pcapng")
    order, fractions, fields = _FORMATS[magic]
    header = stream.read(_HEADER)
    if len(header) < _HEADER:
        raise TruncatedError("cut short in the file header")
    link: int = struct.unpack_from(order + "I", header, 16)[0] & 0xFFFF  # above: length of the check sequence
    record = struct.Struct(order + fields)
    number = 0
    while head := stream.read(record.size):
        number += 1
        if len(head) < record.size:
            raise TruncatedError(f"cut short in the header of frame {number}")
        seconds, fraction, captured, original = record.unpack(head)
        if captured > MAX_FRAME:  # the next record cannot be found
            raise TruncatedError(f"frame {number} claims {captured} bytes")
        data = stream.read(captured)
        if len(data) < captured:
            raise TruncatedError(f"cut short in frame {number}")
        yield Frame(number, seconds + fraction / fractions, link, data, max(original, captured))
