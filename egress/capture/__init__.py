"""Reads capture files (pcap and pcapng) as a stream of frames, in bounded memory for any input.

Callers use `frames` only. It yields every frame of a damaged file up to the damage, and then raises `TruncatedError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from egress.capture.frame import Frame, NotACaptureError, TruncatedError
from egress.capture.pcap import pcap_frames
from egress.capture.pcapng import SECTION_HEADER, pcapng_frames

__all__ = ["Frame", "NotACaptureError", "TruncatedError", "frames"]

_GZIP = b"\x1f\x8b"


def frames(stream: BinaryIO) -> Iterator[Frame]:
    """Yield the frames of a capture opened with `open(path, "rb")`, in file order.

    Raises NotACaptureError if the file does not begin like a capture, TruncatedError at the damage of a damaged file.
    """
    magic = stream.read(4)
    if magic == SECTION_HEADER:
        yield from pcapng_frames(stream)
        return
    if not magic:
        raise NotACaptureError("the file is empty")
    if magic.startswith(_GZIP):
        raise NotACaptureError("the file is compressed: gunzip it first")
    yield from pcap_frames(magic, stream)
