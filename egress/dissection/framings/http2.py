"""The framing of HTTP/2 in the clear: the client's preface, SETTINGS first on both sides, then valid frame headers."""

from __future__ import annotations

from egress.dissection.framing import Framing
from egress.model import Direction
from egress.wire.http2frames import Frames


class Http2Framing(Framing):
    """Checks HTTP/2 over TCP, begun with prior knowledge or after an upgrade (h2c)."""

    proves = True

    def __init__(self) -> None:
        super().__init__()
        self._sides = Frames(client=True), Frames(client=False)

    def pick_up(self) -> None:
        self._sides[Direction.OUT].pick_up()
        self.blind[Direction.IN] = True

    def client(self, data: bytes) -> None:
        self._sides[Direction.OUT].feed(data)

    def server(self, data: bytes) -> None:
        self._sides[Direction.IN].feed(data)
