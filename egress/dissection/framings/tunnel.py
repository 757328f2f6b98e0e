"""The framing of tunnels over UDP: each datagram begins with the header of VXLAN or Geneve."""

from __future__ import annotations

from egress.dissection.framing import Framing
from egress.errors import MalformedError
from egress.model import UDP
from egress.wire.tunnels import carried


class TunnelFraming(Framing):
    """VXLAN and Geneve. Other tunnels are IP protocols, which a rule names by `protocol`."""

    def client(self, data: bytes) -> None:
        if carried(UDP, data) is None:
            raise MalformedError("not the header of a tunnel")

    def server(self, data: bytes) -> None:
        self.client(data)
