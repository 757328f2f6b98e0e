"""HTTP/2 in the clear, begun with prior knowledge: the server name in each request."""

from __future__ import annotations

from types import MappingProxyType

from egress.dissection.framings.http2 import Http2Framing
from egress.dissection.protocol import Follower, Form, Identified, Match, Place, Step, StreamProtocol, named
from egress.errors import MalformedError
from egress.model import TCP, App
from egress.wire.http2 import PREFACE, H2RequestStream, starts_http2


class Http2(StreamProtocol):
    """HTTP/2, identified by the client's preface; the server's direction is not followed."""

    app = App.HTTP2
    framings = MappingProxyType({TCP: Http2Framing})
    forms = (Form.STREAM,)
    many_names = True

    @staticmethod
    def identify(head: bytes, place: Place) -> Match:
        return starts_http2(head)

    def follow(self, head: bytes, place: Place) -> Follower:
        return _Requests(place)


class _Requests(Follower):
    """Follows the client's direction, from its preface on; each request names a server.

    Once the bytes are malformed, each chunk gives a `Named` with a hidden name.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._stream = H2RequestStream()
        self._begun = False

    def feed(self, data: bytes) -> list[Step]:
        if not self._begun:
            self._begun = True
            data = data[len(PREFACE) :]
        try:
            requests = self._stream.feed(data)
        except MalformedError:
            return named(self._place, "", hidden=True)
        steps: list[Step] = []
        for request in requests:
            steps.append(Identified(App.HTTP2, request.authority))
            steps += named(self._place, request.authority)
        return steps
