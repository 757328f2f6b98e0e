"""The framing of tunnels over UDP: each datagram must begin with a VXLAN or Geneve header."""

from __future__ import annotations

from egress.dissection.framing import Framing
from egress.errors import MalformedError
from egress.model import UDP
from egress.wire.tunnels import carried


class TunnelFraming(Framing):
    """Checks VXLAN and Geneve. A rule names other tunnels by their IP protocol (`protocol`), which needs no check."""

    def client(self, data: bytes) -> None:
        if carried(UDP, data) is None:
            raise MalformedError("not the header of a tunnel")

    def server(self, data: bytes) -> None:
        self.client(data)
