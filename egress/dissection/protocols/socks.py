"""SOCKS 4 and 5: the handshake, after which each direction is a stream of its own."""

from __future__ import annotations

from types import MappingProxyType

from egress.dissection.framings.socks import SocksFraming
from egress.dissection.protocol import Follower, Form, Match, Place, Rest, Step, StreamProtocol
from egress.model import TCP, App
from egress.wire.socks import handshake


class Socks(StreamProtocol):
    """SOCKS. A direction is identified once its handshake is whole, each direction by itself."""

    app = App.SOCKS
    framings = MappingProxyType({TCP: SocksFraming})
    forms = (Form.STREAM,)

    @staticmethod
    def identify(head: bytes, place: Place) -> Match:
        length = handshake(head)
        return None if length is None else length > 0

    def follow(self, head: bytes, place: Place) -> Follower:
        return _Handshake(handshake(head) or 0)


class _Handshake(Follower):
    """Skips the first `length` bytes, the handshake; the bytes after it are another stream (`Rest`)."""

    def __init__(self, length: int) -> None:
        self._length = length

    def feed(self, data: bytes) -> list[Step]:
        return [Rest(data[self._length :])]
