"""The record headers of one direction of TLS (RFC 8446 section 5.1, RFC 5246 section 6.2): where each record ends.

A header has a type from 20 to 24, a version 3.x, and a length. The content of the records is not checked.
"""

from __future__ import annotations

from egress.errors import MalformedError

HEADER = 5
LONGEST = 16384 + 2048  # RFC 5246 section 6.2.3; of TLS 1.3: 16384 + 256
TYPES = range(20, 25)  # change cipher spec, alert, handshake, application data, heartbeat (RFC 6520)


class Records:
    """Checks the records of one direction. Mutable; feed it the bytes in order, from the first byte of a record on.

    `left`: the bytes of the unfinished record that are still to come. `begun`: the bytes of an unfinished header.
    """

    __slots__ = ("begun", "left")

    def __init__(self) -> None:
        self.left = 0
        self.begun = b""

    def feed(self, data: bytes) -> None:
        """Check the next bytes. Raises MalformedError for a header that no TLS record has, even before it is whole."""
        size, at = len(data), self.left
        while at < size:
            header = self.begun + data[at : at + HEADER - len(self.begun)]
            at += len(header) - len(self.begun)
            length = record_length(header)
            if length is None:
                self.begun, self.left = header, 0
                return
            self.begun = b""
            at += length
        self.left = at - size


def record_length(header: bytes) -> int | None:
    """Return the length in bytes of the record with this header; None if the header is not whole yet.

    Raises MalformedError if no record's header begins with these bytes.
    """
    if (
        (header and header[0] not in TYPES)
        or header[1:2] not in (b"", b"\x03")
        or header[2:3] > b"\x04"
        or header[3:4] > b"\x48"
    ):
        raise MalformedError("not the header of a TLS record")
    if len(header) < HEADER:
        return None
    length = header[3] << 8 | header[4]
    if not 1 <= length <= LONGEST:
        raise MalformedError("TLS record length out of range")
    return length
