"""The IP packets that a tunnel carries: each of their flows is dissected like one of the agent's own."""

from __future__ import annotations

from egress.dissection.events import Unread
from egress.dissection.exchange import Exchange
from egress.dissection.layer import Layer, Shared
from egress.dissection.protocol import Fact, Place
from egress.dissection.stream import Stream
from egress.errors import MalformedError
from egress.model import ACK, SYN, TCP, Direction, Packet
from egress.wire.packet import decode

MAX_FLOWS = 8  # inside one protocol at a time; the oldest is given up
CAPACITY = 16384  # bytes out of order that are kept of a direction, and bytes that repetitions are compared with


class Packets(Layer):
    """The flows in the packets of one channel, both directions. Packets that are not valid IP are left out.

    Beyond MAX_FLOWS flows the oldest is given up, which an `Unread` of size 0 states.
    """

    __slots__ = ("_flows", "_place", "_shared")

    def __init__(self, place: Place, shared: Shared) -> None:
        self._place = place
        self._shared = shared
        self._flows: dict[frozenset[tuple[int, bytes, int]], _Flow] = {}

    def feed(self, data: bytes, direction: Direction) -> list[Fact]:
        try:
            packet = decode(data)
        except MalformedError:
            return []
        proto = packet.proto
        key = frozenset(((proto, packet.src, packet.sport), (proto, packet.dst, packet.dport)))
        flow = self._flows.get(key)
        given_up: list[Fact] = []
        if flow is None:
            if len(self._flows) >= MAX_FLOWS:
                given_up.append(Unread(0))
                del self._flows[next(iter(self._flows))]
            flow = self._flows[key] = _Flow(self._place._replace(proto=proto), packet.dport, self._shared)
        return given_up + (flow.segment(packet, direction) if proto == TCP else flow.datagram(packet, direction))


class _Flow:
    """One flow in carried packets.

    Its TCP streams are lenient: bytes of a segment that never comes are skipped.
    """

    __slots__ = ("_exchange", "_streams")

    def __init__(self, place: Place, port: int, shared: Shared) -> None:
        self._exchange = Exchange(place, port, shared)
        self._streams = Stream(strict=False, capacity=CAPACITY), Stream(strict=False, capacity=CAPACITY)

    def datagram(self, packet: Packet, direction: Direction) -> list[Fact]:
        """Dissect a packet that is not TCP; return the facts that it completes."""
        return self._exchange.datagram(direction, packet.payload) if packet.payload else []

    def segment(self, packet: Packet, direction: Direction) -> list[Fact]:
        """Dissect a TCP segment; return the facts that it completes."""
        stream, other = self._streams[direction], self._streams[1 - direction]
        seq = packet.seq
        if packet.flags & SYN:
            seq = (seq + 1) & 0xFFFFFFFF
            if stream.base < 0:
                stream.start(seq)
        facts: list[Fact] = []
        if packet.payload and (data := stream.feed(seq, packet.payload)):
            facts += self._exchange.segment(direction, data)
        if packet.flags & ACK and (data := other.acknowledge(packet.ack)):
            facts += self._exchange.segment(Direction(1 - direction), data)
        for each in self._streams:
            if len(each.history) > CAPACITY:
                each.forget()
        return facts
