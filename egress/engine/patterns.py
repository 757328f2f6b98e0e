"""Byte patterns in the packets that the agent sends on settled flows, by Hyperscan in stream mode.

A settled flow is no longer dissected, but each packet that its agent sends is scanned for the `patterns` of the
signatures: a match moves the flow back to full inspection. Matches across packets are found; the state of a flow is a
few hundred bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import hyperscan

from egress.engine.signature import Signature
from egress.model import TCP, Packet

TAIL = 1024  # bytes; the first messages of the protocols looked for are shorter


class Patterns:
    """The compiled patterns of all signatures; without any, `scan()` returns None."""

    def __init__(self, signatures: Sequence[Signature]) -> None:
        expressions = sorted({pattern for signature in signatures for pattern in signature.patterns})
        self._database: hyperscan.Database | None = None
        if expressions:
            self._database = hyperscan.Database(mode=hyperscan.HS_MODE_STREAM)
            flags = hyperscan.HS_FLAG_DOTALL | hyperscan.HS_FLAG_SINGLEMATCH
            self._database.compile(expressions=expressions, ids=list(range(len(expressions))), flags=flags)

    def scan(self) -> Scan | None:
        """Begin a scan of one direction of one flow; None if there are no patterns."""
        return None if self._database is None else Scan(self._database)


class Scan:
    """The scan of one direction of one flow.

    `tail` has the bytes since the last newline before the packet, at most the last TAIL of them: the text in which a
    pattern matches may begin there. Earlier lines are not kept: in encrypted data a newline comes every 256 bytes.
    """

    __slots__ = ("_database", "_hits", "_stream", "tail")

    def __init__(self, database: hyperscan.Database) -> None:
        # A Hyperscan stream owns neither its database nor the context of its callback: both are kept here.
        self._database = database
        self._hits: list[int] = []
        self._stream = database.stream(match_event_handler=_matched, context=self._hits)
        self._stream.__enter__()
        self.tail = b""

    def follow(self, before: bytes | bytearray) -> None:
        """Set `tail` from the bytes that came before the scan began."""
        self.tail = bytes(before[max(before.rfind(b"\n") + 1, len(before) - TAIL) :])

    def hit(self, packet: Packet) -> bool:
        """Scan the payload of a packet as it arrives; return True once a pattern has matched.

        `tail` then ends where this packet begins. Segments are scanned in the order of arrival: neighbours often change
        places (each CPU of the agent's machine has its own way to the queue), and a settled flow holds nothing back.
        """
        data = packet.payload
        self._stream.scan(data)
        if self._hits:
            return True
        if packet.missing:
            self.tail = b""
            return False
        line = data.rpartition(b"\n")[2]
        if len(line) < len(data) or len(line) >= TAIL:
            self.tail = line[-TAIL:]
        else:
            self.tail = (self.tail + data)[-TAIL:]
        return False


def with_beginning(tail: bytes, packet: Packet) -> Packet:
    """Return a TCP segment in which a pattern matched with `tail`, the beginning of its line, before its payload.

    Its sequence number is that of the first byte of `tail`. Other packets, and a segment that begins with a text of its
    own (SSH, JSON), are returned unchanged.
    """
    if packet.proto != TCP or packet.payload.startswith((b"SSH-", b"{", b"[")):
        return packet
    return packet._replace(seq=(packet.seq - len(tail)) & 0xFFFFFFFF, payload=tail + packet.payload)


def _matched(pattern: int, _start: int, _end: int, _flags: int, hits: object) -> None:
    assert isinstance(hits, list)
    hits.append(pattern)
