"""TLS: the client's hello is read. Nothing after it is read in this direction, and nothing of the server's."""

from __future__ import annotations

from types import MappingProxyType

from egress.dissection.events import TlsOpened
from egress.dissection.framings.tls import TlsFraming
from egress.dissection.protocol import Follower, Form, Identified, Lost, Match, Place, Step, StreamProtocol, named
from egress.errors import MalformedError
from egress.model import TCP, App
from egress.wire.tls import client_hello, looks_like_tls, server_hello

MAX_HELLO = 32768  # bytes of a direction after which a hello that is still not whole is given up
OFTEN, SELDOM = 4096, 256  # up to OFTEN bytes a hello is tried with every segment, later after each SELDOM bytes


class Tls(StreamProtocol):
    """TLS, identified by the first bytes of a ClientHello, or of a ServerHello or alert."""

    app = App.TLS
    framings = MappingProxyType({TCP: TlsFraming})
    forms = (Form.STREAM,)

    @staticmethod
    def identify(head: bytes, place: Place) -> Match:
        client = looks_like_tls(head)
        return server_hello(head) if client is False else client

    def follow(self, head: bytes, place: Place) -> Follower:
        return _Client(place) if looks_like_tls(head) else _Server()


class _Server(Follower):
    """Follows a server's direction without reading it."""

    opaque = True

    def feed(self, data: bytes) -> list[Step]:
        return []


class _Client(Follower):
    """Follows a client's direction up to the end of its ClientHello.

    A hello that is malformed or longer than MAX_HELLO gives a `Named` with a hidden name.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._head = b""
        self._tried = 0  # bytes of the head with which the hello was tried last

    def feed(self, data: bytes) -> list[Step]:
        if self.opaque:
            return []
        head = self._head = self._head + data
        if len(head) > OFTEN and len(head) - self._tried < SELDOM:
            return []
        self._tried = len(head)
        try:
            hello = client_hello(head)
        except MalformedError:
            return [*named(self._place, "", hidden=True), Lost(head)]
        if hello is None and len(head) < MAX_HELLO:
            return []
        self.opaque = True
        self._head = b""
        if hello is None:
            return named(self._place, "", hidden=True)
        return [
            Identified(App.TLS, hello.server_name),
            TlsOpened(self._place.direction, hello),
            *named(self._place, hello.server_name, hidden=hello.ech),
        ]
