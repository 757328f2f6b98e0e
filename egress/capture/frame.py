"""A frame of a capture file, and the two errors of reading one."""

from __future__ import annotations

from typing import NamedTuple

from egress.errors import EgressError

MAX_FRAME = 262_144  # libpcap's MAXIMUM_SNAPLEN; nothing on a wire is longer
UNKNOWN_LINK = -1  # the file does not say


class NotACaptureError(EgressError):
    """The file is neither pcap nor pcapng."""


class TruncatedError(EgressError):
    """The file breaks off or is damaged at this place. The frames yielded before are valid."""


class Frame(NamedTuple):
    """One frame of a capture file."""

    number: int  # 1-based, as other tools count
    ts: float  # the file's time, in seconds since the epoch; it may go backwards
    link: int  # LINKTYPE_ value (tcpdump.org/linktypes.html), or UNKNOWN_LINK
    data: bytes  # from the link header on, at most MAX_FRAME
    wire_length: int  # bytes the frame had on the wire; never less than len(data)
