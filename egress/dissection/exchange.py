"""The dissection of both directions of one flow: the agent's own, or one in packets that a tunnel carries."""

from __future__ import annotations

from egress.dissection.datagrams import Datagrams
from egress.dissection.layer import Both, Shared
from egress.dissection.protocol import Fact, Form, Place, PortProtocol
from egress.dissection.side import Side
from egress.model import UDP, Direction


class Exchange:
    """The layers of one flow, and the protocols that are expected at its server's port."""

    __slots__ = ("_at_port", "_both", "_datagrams", "_place", "_shared", "_sides")

    def __init__(self, place: Place, port: int, shared: Shared) -> None:
        self._place = place
        self._shared = shared
        self._at_port: list[PortProtocol] = [protocol() for protocol in shared.registry.ports.get(port, ())]
        self._sides: list[Side | None] = [None, None]
        self._both: Both = {}
        self._datagrams: Datagrams | None = None

    def segment(self, direction: Direction, data: bytes) -> list[Fact]:
        """Dissect the next bytes of one direction over TCP, in order; return the facts that they complete."""
        side = self._sides[direction]
        if side is None:
            _, _, proto, path, carrier = self._place
            place = Place(Form.STREAM, direction, proto, path, carrier)
            side = self._sides[direction] = Side(place, self._shared, self._both)
        if not self._at_port:
            return side.feed(data, direction)
        facts = [fact for protocol in self._at_port for fact in protocol.segment(direction, data)]
        return facts + side.feed(data, direction)

    def datagram(self, direction: Direction, data: bytes) -> list[Fact]:
        """Dissect the next payload of a flow that is not TCP; return the facts that it completes."""
        if self._at_port and self._place.proto == UDP:
            return [fact for protocol in self._at_port for fact in protocol.datagram(direction, data)]
        if self._datagrams is None:
            self._datagrams = Datagrams(self._place._replace(form=Form.DATAGRAM), self._shared)
        return self._datagrams.feed(data, direction)

    @property
    def asked(self) -> bool:
        """True once a protocol that is expected at the port has read a message that may name a host (a DNS query)."""
        return bool(self._at_port) and any(protocol.asked for protocol in self._at_port)

    @property
    def opaque(self) -> bool:
        """True if nothing more can be learnt from either direction of a TCP connection."""
        out, back = self._sides
        return out is not None and back is not None and out.opaque and back.opaque

    @property
    def carries(self) -> bool:
        """True if the datagrams carry flows of other hosts (a tunnel)."""
        return self._datagrams is not None and self._datagrams.carries
