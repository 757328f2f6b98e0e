"""HTTP/1: both directions message by message, up to the place where HTTP ends (CONNECT, Upgrade, other bytes).

The messages of a WebSocket (RFC 6455) are one stream inside HTTP; any other protocol takes the place of HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from egress.dissection.events import HttpAsked
from egress.dissection.framings.http import HttpFraming
from egress.dissection.protocol import (
    Follower,
    Form,
    Identified,
    Inner,
    Lost,
    Match,
    Place,
    Rest,
    Step,
    StreamProtocol,
    named,
)
from egress.dissection.websocket import Messages
from egress.errors import MalformedError
from egress.model import TCP, App
from egress.wire.http import Body, HttpRequest, HttpResponse, Opaque, RequestStream, ResponseStream
from egress.wire.http_start import starts_http


class Http(StreamProtocol):
    """HTTP/1 on one flow.

    `answers`: the reader of the server's direction, which gets each request, since the length of an answer depends on
    it. `websocket`: True if the last request for another protocol asked for WebSocket.
    """

    app = App.HTTP
    framings = MappingProxyType({TCP: HttpFraming})
    forms = (Form.STREAM,)
    many_names = True

    def __init__(self) -> None:
        self.answers = ResponseStream()
        self.websocket = False

    @staticmethod
    def identify(head: bytes, place: Place) -> Match:
        return starts_http(head)

    def follow(self, head: bytes, place: Place) -> Follower:
        if head.lstrip(b"\r\n").startswith(b"HTTP/"):
            return _Messages(place, self.answers, self)
        return _Messages(place, RequestStream(), self)


class _Messages(Follower):
    """Follows one direction of HTTP/1, and passes each request to `http.answers`.

    Requests are also searched for mining messages line by line, since a pool may skip lines that it does not know.
    Answers are not, since a page may quote anything.
    """

    def __init__(self, place: Place, stream: RequestStream | ResponseStream, http: Http) -> None:
        self._place = place
        self._stream = stream
        self._http = http
        self._frames: Messages | None = None
        self._content = Form.REQUEST if isinstance(stream, RequestStream) else Form.ANSWER
        self._begins = False  # the next content is the first of its message
        self.beside = frozenset() if stream is http.answers else frozenset((App.STRATUM,))

    def feed(self, data: bytes) -> list[Step]:
        if self._frames is not None:
            return self._framed(self._frames, data)
        try:
            return self._steps(self._stream.feed(data))
        except MalformedError:
            return [*self._steps(self._stream.salvage), *named(self._place, "", hidden=True), Lost(data)]

    def _steps(self, items: Sequence[HttpRequest | HttpResponse | Body | Opaque]) -> list[Step]:
        """Turn the items of a chunk into steps; the pieces of one message's content are joined."""
        steps: list[Step] = []
        pieces: list[bytes] = []  # of one message's content: its chunks are one stream
        for item in (*items, None):
            if isinstance(item, Body):
                pieces.append(item.data)
                continue
            if any(pieces):
                steps.append(Inner(self._content, b"".join(pieces), 0, self._begins))
                self._begins = False
            pieces.clear()
            if item is None:
                break
            if isinstance(item, Opaque):
                steps += self._after(item)
                break
            self._begins = True
            if isinstance(item, HttpRequest):
                self._http.answers.asked(item)
                if item.upgrade:
                    self._http.websocket = "websocket" in item.upgrade.split(",")
                steps += [Identified(App.HTTP, item.host), HttpAsked(self._place.direction, item)]
                steps += named(self._place, item.host)
        return steps

    def _after(self, item: Opaque) -> list[Step]:
        """Return the steps for the first bytes after the end of HTTP."""
        if item.desync or not self._http.websocket:
            return [Rest(item.data)]
        self._frames = Messages(client=self._content is Form.REQUEST)
        return self._framed(self._frames, item.data)

    def _framed(self, frames: Messages, data: bytes) -> list[Step]:
        """Return the steps for bytes that should be WebSocket frames.

        Bytes that are not (the server may have declined the upgrade) are a stream of their own.
        """
        try:
            return frames.feed(data)
        except MalformedError:
            return [Rest(data)]
