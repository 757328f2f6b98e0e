"""Byte patterns over opaque streams, by Hyperscan in stream mode.

A settled flow is no longer dissected, but every packet of it is still scanned for what the signatures name in
`patterns`: a hit makes the engine take the flow back and look closely. Matches across packets are found, the
state is a few hundred bytes a flow.
"""

from __future__ import annotations

from collections.abc import Sequence

import hyperscan

from egress.engine.signature import Signature
from egress.model import TCP, Packet

TAIL = 1024  # bytes; the first messages of the protocols looked for are shorter


class Patterns:
    """The compiled patterns of all signatures; where they name none, `scan()` is None."""

    def __init__(self, signatures: Sequence[Signature]) -> None:
        expressions = sorted({pattern for signature in signatures for pattern in signature.patterns})
        self._database: hyperscan.Database | None = None
        if expressions:
            self._database = hyperscan.Database(mode=hyperscan.HS_MODE_STREAM)
            flags = hyperscan.HS_FLAG_DOTALL | hyperscan.HS_FLAG_SINGLEMATCH
            self._database.compile(expressions=expressions, ids=list(range(len(expressions))), flags=flags)

    def scan(self) -> Scan | None:
        """State for one direction of one flow."""
        return None if self._database is None else Scan(self._database)


class Scan:
    """One direction of one flow being scanned. `tail`: the bytes before the next one; a text may have begun in them."""

    __slots__ = ("_database", "_hits", "_stream", "tail")

    def __init__(self, database: hyperscan.Database) -> None:
        # Hyperscan's streams own neither their database nor the context of their callback: both are kept here.
        self._database = database
        self._hits: list[int] = []
        self._stream = database.stream(match_event_handler=_matched, context=self._hits)
        self._stream.__enter__()
        self.tail = b""

    def follow(self, before: bytes | bytearray) -> None:
        """These bytes came before the next ones."""
        self.tail = bytes(before[-TAIL:])

    def hit(self, packet: Packet) -> bool:
        """Scan what a packet brings, as it arrives; True once a pattern has matched, and then `tail` ends before it.

        Arrival, because neighbouring segments often come in another order than they were sent (each CPU of the agent
        has its own way to us), and a settled flow holds nothing back.
        """
        data = packet.payload
        self._stream.scan(data)
        if self._hits:
            return True
        if packet.missing:
            self.tail = b""
        else:
            self.tail = data[-TAIL:] if len(data) >= TAIL else (self.tail + data)[-TAIL:]
        return False


def with_beginning(tail: bytes, packet: Packet) -> Packet:
    """A TCP segment that showed a pattern, with the line it goes on with: from `tail`, unless one begins in it."""
    if packet.proto != TCP or packet.payload.startswith((b"SSH-", b"{", b"[")):
        return packet
    begun = tail[tail.rfind(b"\n") + 1 :]
    return packet._replace(seq=(packet.seq - len(begun)) & 0xFFFFFFFF, payload=begun + packet.payload)


def _matched(pattern: int, _start: int, _end: int, _flags: int, hits: object) -> None:
    assert isinstance(hits, list)
    hits.append(pattern)
