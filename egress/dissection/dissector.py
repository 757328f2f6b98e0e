"""Dissection of one flow: its bytes in order or its datagrams in, events out. It states facts and holds no opinions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from egress.dissection.datagrams import Datagrams
from egress.dissection.events import Event
from egress.dissection.layer import AMPLIFICATION, Layer, Shared
from egress.dissection.protocol import Carrier, Fact, Form, Identified, Place, PortProtocol
from egress.dissection.registry import REGISTRY, Registry
from egress.dissection.side import Side
from egress.model import TCP, UDP, Direction, Packet

DATAGRAMS = 8  # UDP datagrams of both directions after which a protocol that was not identified stays so


class Dissector:
    """Both directions of one flow. `app` and `server_name` are what has been identified so far; `port` is the server's.

    Made with a flow's first payload; a flow that carries none needs no dissector.
    """

    __slots__ = ("_at_port", "_datagrams", "_heard", "_shared", "_sides", "app", "server_name")

    def __init__(self, port: int = 0, registry: Registry = REGISTRY) -> None:
        self.app: Carrier = ""
        self.server_name = ""
        self._shared = Shared(registry, _layer)
        self._at_port: list[PortProtocol] = [protocol() for protocol in registry.ports.get(port, ())]
        self._sides: list[Side | None] = [None, None]
        self._datagrams: Datagrams | None = None
        self._heard = 0  # packets that are not TCP

    def feed(self, direction: Direction, data: bytes) -> Iterator[Event]:
        """Dissect the next bytes of one direction of a TCP flow, in order."""
        for protocol in self._at_port:
            yield from self._events(protocol.segment(direction, data))
        side = self._sides[direction]
        if side is None:
            side = self._sides[direction] = Side(Place(Form.STREAM, direction, TCP), self._shared)
        self._shared.left += AMPLIFICATION * len(data)
        facts = side.feed(data, direction)
        if facts:
            yield from self._events(facts)

    def datagram(self, packet: Packet, direction: Direction) -> Iterator[Event]:
        """Dissect one packet of a flow that is not TCP."""
        self._heard += 1
        data = packet.payload
        if not data:
            return
        if self._at_port and packet.proto == UDP:
            for protocol in self._at_port:
                yield from self._events(protocol.datagram(direction, data))
            return
        if self._datagrams is None:
            self._datagrams = Datagrams(Place(Form.DATAGRAM, direction, packet.proto), self._shared)
        self._shared.left += AMPLIFICATION * len(data)
        yield from self._events(self._datagrams.feed(data, direction))

    def opaque(self, proto: int) -> bool:
        """Return whether nothing more can be learnt from the bytes of this flow."""
        if proto == TCP:
            return all(side is not None and side.opaque for side in self._sides)
        return proto == UDP and not self._at_port and self._heard >= DATAGRAMS

    def asks_again(self, *, by_name: bool) -> bool:
        """Return whether the next message may ask for another name, however many came before.

        It may on a resolver's flow, and where a name rule admits the flow (`by_name`) and its requests can be read.
        """
        if any(protocol.asked for protocol in self._at_port):
            return True
        return by_name and self.app in self._shared.registry.many_names

    def _events(self, facts: Iterable[Fact]) -> Iterator[Event]:
        """Yield the events among the facts; an identification is noted before the next event is yielded."""
        for fact in facts:
            if isinstance(fact, Identified):
                self.app = fact.app
                self.server_name = fact.server_name or self.server_name
            else:
                yield fact


def _layer(place: Place, shared: Shared) -> Layer:
    return Datagrams(place, shared) if place.form is Form.DATAGRAM else Side(place, shared)
