"""Make and send answers to refused packets in their own protocol, such as a DNS response, at a bounded rate.

An answer leaves by the interface on which the refused packet came in, to the hardware address that sent it, and only
where the source address is the agent's (the engine refuses others). So it reaches the agent alone, whatever addresses
are in the packet. Each agent has a rate of its own; beyond it, refused packets are dropped without an answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from struct import pack, pack_into, unpack_from

from egress.engine.outcome import Reply
from egress.errors import MalformedError
from egress.gateway.kernel.link import Link, Neighbour
from egress.model import ACK, FIN, PSH, TCP, UDP, Packet
from egress.wire.ip import header
from egress.wire.packet import decode

RATE = 500.0  # answers a second to one agent, and as many at once
_TTL, _WINDOW = 64, 0xFFFF
_END, _NOP, _TIMESTAMPS = 0, 1, 8  # TCP options; RFC 7323 section 3


class Replies:
    """Sends answers to agents; call `open` first. Counts answers that were sent, exceeded the rate, or failed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.sent = self.limited = self.failed = 0
        self._link: Link | None = None
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}  # agent → answers that it may still get, and when that was

    def open(self) -> None:
        """Open the socket; call this before privileges are dropped. If it fails, each `send` fails and is counted."""
        try:
            self._link = Link()
        except OSError:
            self._link = None

    def send(self, reply: Reply, raw: bytes, agent: str, to: Neighbour) -> bool:
        """Send the answer to a refused packet `raw`. Returns False if it cannot be sent.

        Returns True without sending when the agent's rate is exceeded.
        """
        if not self._may_send(agent):
            self.limited += 1
            return True
        try:
            if self._link is None:
                raise OSError("no socket")
            self._link.send(packet(reply, raw), to)
        except (OSError, MalformedError):
            self.failed += 1
            return False
        self.sent += 1
        return True

    def forget(self, agent: str) -> None:
        """Discard the rate of an agent that is gone."""
        self._left.pop(agent, None)

    def close(self) -> None:
        if self._link is not None:
            self._link.close()

    def counters(self) -> dict[str, int]:
        """Return the counts, for the heartbeat."""
        return {"sent": self.sent, "limited": self.limited, "failed": self.failed}

    def _may_send(self, agent: str) -> bool:
        now = self._clock()
        left, since = self._left.get(agent, (RATE, now))
        left = min(RATE, left + (now - since) * RATE)
        self._left[agent] = max(left - 1.0, 0.0), now
        return left >= 1.0


def packet(reply: Reply, raw: bytes) -> bytes:
    """Make the IP packet that answers `raw`, with the addresses and ports swapped. Raises MalformedError."""
    asked = decode(raw, max(len(raw), 0xFFFF))
    transport = _tcp(reply, asked, raw) if asked.proto == TCP else _udp(reply, asked)
    if asked.version == 4:
        head = pack("!BBHHHBBH", 0x45, 0, 20 + len(transport), 0, 0x4000, _TTL, asked.proto, 0) + asked.dst + asked.src
        return head[:10] + checksum(head).to_bytes(2) + head[12:] + transport
    return pack("!LHBB", 6 << 28, len(transport), asked.proto, _TTL) + asked.dst + asked.src + transport


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    if len(data) & 1:
        data += b"\0"
    total: int = sum(unpack_from(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _udp(reply: Reply, asked: Packet) -> bytes:
    size = 8 + len(reply.data)
    segment = bytearray(pack("!HHHH", asked.dport, asked.sport, size, 0) + reply.data)
    pack_into("!H", segment, 6, _over_pseudo_header(segment, asked, UDP) or 0xFFFF)
    return bytes(segment)


def _tcp(reply: Reply, asked: Packet, raw: bytes) -> bytes:
    """Make the TCP segment that carries the answer, and ends the connection (FIN)."""
    options = _timestamps(raw, asked)
    offset, flags = (20 + len(options)) << 2, FIN | PSH | ACK
    head = pack("!HHLLBBHHH", asked.dport, asked.sport, reply.seq, reply.ack, offset, flags, _WINDOW, 0, 0)
    segment = bytearray(head + options + reply.data)
    pack_into("!H", segment, 16, _over_pseudo_header(segment, asked, TCP))
    return bytes(segment)


def _over_pseudo_header(segment: bytes | bytearray, asked: Packet, proto: int) -> int:
    return checksum(asked.dst + asked.src + pack("!LL", len(segment), proto) + segment)


def _timestamps(raw: bytes, asked: Packet) -> bytes:
    """Return the TCP timestamps option that answers the one in `raw`, padded; empty if it has none.

    Its value is the one that the agent echoes, the last from its peer: so it is never too old (RFC 7323 section 5.3).
    """
    at = header(raw, max(len(raw), asked.length)).start
    end = at + (raw[at + 12] >> 4 << 2)
    at += 20
    while at + 1 < end and raw[at] != _END:
        if raw[at] == _NOP:
            at += 1
            continue
        size = raw[at + 1]
        if raw[at] == _TIMESTAMPS and size == 10 and at + 10 <= end:
            value, echo = unpack_from("!LL", raw, at + 2)
            return pack("!BBBBLL", _NOP, _NOP, _TIMESTAMPS, 10, echo, value)
        at += max(size, 2)
    return b""
