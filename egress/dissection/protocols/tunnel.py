"""Tunnels in the clear (IP in IP, 6in4, GRE, VXLAN, Geneve): the packets in them are dissected like the agent's own."""

from __future__ import annotations

from types import MappingProxyType
from typing import Self

from egress.dissection.framings.tunnel import TunnelFraming
from egress.dissection.protocol import DatagramProtocol, Form, Inner, Match, Place, Step
from egress.model import UDP, App, Direction
from egress.wire.tunnels import carried


class Tunnel(DatagramProtocol):
    """A flow whose packets carry IP packets. The first packet with an IP packet inside identifies it.

    Packets without one are left out. `proto`: the IP protocol of the flow.
    """

    app = App.TUNNEL
    framings = MappingProxyType({UDP: TunnelFraming})
    carries = True

    def __init__(self, proto: int = UDP) -> None:
        self._proto = proto

    @classmethod
    def begin(cls, place: Place) -> Self:
        return cls(place.proto)

    @staticmethod
    def identify(data: bytes, place: Place) -> Match:
        return True if carried(place.proto, data) else None if place.proto == UDP else False

    def datagram(self, direction: Direction, data: bytes) -> list[Step]:
        packet = carried(self._proto, data)
        return [Inner(Form.PACKET, packet)] if packet else []
