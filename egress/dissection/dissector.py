"""Dissection of one flow: takes its bytes in order, or its datagrams, and yields events: facts, no opinions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from egress.dissection.datagrams import Datagrams
from egress.dissection.events import Event
from egress.dissection.exchange import Exchange
from egress.dissection.layer import AMPLIFICATION, Both, Layer, Shared
from egress.dissection.packets import Packets
from egress.dissection.protocol import Carrier, Fact, Form, Identified, Place
from egress.dissection.registry import REGISTRY, Registry
from egress.dissection.side import Side
from egress.model import TCP, UDP, Direction, Packet

DATAGRAMS = 8  # UDP datagrams of both directions after which a protocol that was not identified stays so


class Dissector:
    """Dissects both directions of one flow; `port` is the server's port.

    `app` and `server_name` are the latest ones found, or "". The engine makes a Dissector only when a flow has a
    payload: many TCP flows never have one.
    """

    __slots__ = ("_exchange", "_heard", "_port", "_shared", "app", "server_name")

    def __init__(self, port: int = 0, registry: Registry = REGISTRY) -> None:
        self.app: Carrier = ""
        self.server_name = ""
        self._port = port
        self._shared = Shared(registry, _layer)
        self._exchange: Exchange | None = None
        self._heard = 0  # packets that are not TCP

    def feed(self, direction: Direction, data: bytes) -> Iterator[Event]:
        """Dissect the next bytes of one direction of a TCP flow, in order; yield their events."""
        self._shared.left += AMPLIFICATION * len(data)
        exchange = self._exchange or self._begin(TCP)
        facts = exchange.segment(direction, data)
        if facts:
            yield from self._events(facts)

    def datagram(self, packet: Packet, direction: Direction) -> Iterator[Event]:
        """Dissect one packet of a flow that is not TCP; yield its events."""
        self._heard += 1
        data = packet.payload
        if not data:
            return
        self._shared.left += AMPLIFICATION * len(data)
        exchange = self._exchange or self._begin(packet.proto)
        facts = exchange.datagram(direction, data)
        if facts:
            yield from self._events(facts)

    def _begin(self, proto: int) -> Exchange:
        place = Place(Form.STREAM if proto == TCP else Form.DATAGRAM, Direction.OUT, proto)
        self._exchange = Exchange(place, self._port, self._shared)
        return self._exchange

    def opaque(self, proto: int) -> bool:
        """Return whether no later byte of this flow can give a fact. `proto`: the flow's IP protocol.

        A UDP flow is opaque after DATAGRAMS packets, unless a protocol is expected at its port or it is a tunnel. Flows
        other than TCP and UDP never are.
        """
        if proto == TCP:
            return self._exchange is not None and self._exchange.opaque
        if proto != UDP or self._heard < DATAGRAMS or self._port in self._shared.registry.ports:
            return False
        return self._exchange is None or not self._exchange.carries

    def asks_again(self, *, by_name: bool) -> bool:
        """Return whether any later message may ask for another name, so that the flow must stay under inspection.

        It may on a flow of DNS queries. It also may if a rule with a name admitted the flow (`by_name`) and each
        request of its protocol names a server (HTTP).
        """
        if self._exchange is not None and self._exchange.asked:
            return True
        return by_name and self.app in self._shared.registry.many_names

    def _events(self, facts: Iterable[Fact]) -> Iterator[Event]:
        """Yield the events among the facts, in order; an `Identified` sets `app`, and `server_name` if it has one."""
        for fact in facts:
            if isinstance(fact, Identified):
                self.app = fact.app
                self.server_name = fact.server_name or self.server_name
            else:
                yield fact


def _layer(place: Place, shared: Shared, both: Both) -> Layer:
    """Make the layer for the form of bytes in `place`."""
    if place.form is Form.DATAGRAM:
        return Datagrams(place, shared)
    return Packets(place, shared) if place.form is Form.PACKET else Side(place, shared, both)
