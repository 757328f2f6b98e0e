"""QUIC: the ClientHello in a client's Initial packets. Later ones may open other connections on the same ports."""

from __future__ import annotations

from types import MappingProxyType

from egress.dissection.events import Named, TlsOpened
from egress.dissection.framings.quic import QuicFraming
from egress.dissection.protocol import DatagramProtocol, Identified, Match, Place, Step
from egress.errors import MalformedError
from egress.model import UDP, App, Direction
from egress.wire.quic import QuicHello, has_long_header, may_be_initial, opens_connection


class Quic(DatagramProtocol):
    """QUIC on one flow. The agent counts as the client: only its datagrams are read."""

    app = App.QUIC
    framings = MappingProxyType({UDP: QuicFraming})
    reconnects = True

    def __init__(self) -> None:
        self._hello = QuicHello()

    @staticmethod
    def identify(data: bytes, place: Place) -> Match:
        if place.proto != UDP:
            return False
        return True if place.direction is Direction.OUT and may_be_initial(data) else None

    @staticmethod
    def reopens(data: bytes) -> bool:
        return opens_connection(data)

    def datagram(self, direction: Direction, data: bytes) -> list[Step]:
        """Return the facts in the hello that a datagram completes; for a malformed datagram a hidden name."""
        hello = self._hello
        if direction is Direction.IN:
            hello.reply(data)
            return []
        if hello.failed or (hello.done and not has_long_header(data)):
            return []
        try:
            opened = hello.feed(data)
        except MalformedError:
            return [Named("", hidden=True)]
        if opened is None:
            return []
        return [
            Identified(App.QUIC, opened.server_name),
            TlsOpened(Direction.OUT, opened),
            Named(opened.server_name, opened.ech),
        ]
