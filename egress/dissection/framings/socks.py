"""The framing of SOCKS 4 and 5: the handshake in each direction, after which another protocol begins."""

from __future__ import annotations

from egress.dissection.framing import Framing
from egress.errors import MalformedError
from egress.model import Direction
from egress.wire.socks import handshake


class SocksFraming(Framing):
    """Checks the handshake of SOCKS over TCP. Bytes after it are not checked here: dissection identifies them."""

    def __init__(self) -> None:
        super().__init__()
        self._heads: list[bytes | None] = [b"", b""]  # None: the handshake is over

    def client(self, data: bytes) -> None:
        self._take(Direction.OUT, data)

    def server(self, data: bytes) -> None:
        self._take(Direction.IN, data)

    def _take(self, direction: Direction, data: bytes) -> None:
        """Check the next bytes of a direction until its handshake is whole. Raises MalformedError."""
        head = self._heads[direction]
        if head is None:
            return
        head += data
        length = handshake(head, client=direction is Direction.OUT)
        if length == 0:
            raise MalformedError("not a SOCKS handshake")
        self._heads[direction] = head if length is None else None
