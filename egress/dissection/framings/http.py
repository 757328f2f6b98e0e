"""The framing of HTTP/1: the client's requests, and the protocol that follows where a connection leaves HTTP/1.

- The client's bytes must be requests until the server agrees to a change: with 101 to Upgrade, with 2xx to CONNECT.
- After an upgrade to WebSocket or HTTP/2 (h2c) both sides must send its frames. Other upgrades are refused.
- In a tunnel (CONNECT) both sides must speak HTTP/1 again, at most MAX_TUNNELS times.
- The server's first bytes must begin an answer. Its later answers are read only to learn whether it agrees to a
  change: if egress cannot read one, that is no reason to refuse the flow, and the direction is checked no more.
"""

from __future__ import annotations

from egress.dissection.framing import Framing
from egress.dissection.framings.http2 import Http2Framing
from egress.errors import MalformedError
from egress.model import Direction
from egress.wire.http import HttpRequest, HttpResponse, Opaque, RequestStream, ResponseStream
from egress.wire.websocket import WebSocketStream

MAX_TUNNELS = 4  # inside one another


class HttpFraming(Framing):
    """Checks HTTP/1 over TCP. `depth`: the number of CONNECT tunnels around it."""

    proves = True

    def __init__(self, depth: int = 0) -> None:
        super().__init__()
        self._depth = depth
        self._requests = RequestStream()
        self._answers = ResponseStream()
        self._answered = False  # the beginning of an answer was seen
        self._wanted = ""  # what the last request for a change asks for: an Upgrade, or "connect"
        self._after: Framing | None = None  # the framing that follows HTTP/1

    def pick_up(self) -> None:
        self.blind[Direction.IN] = True

    def client(self, data: bytes) -> None:
        while data and self._after is None:
            if self._wanted and self._answers.changed:
                self._change()
            else:
                data = self._request(data)
        if data and self._after is not None:
            self._after.client(data)

    def server(self, data: bytes) -> None:
        if self._after is not None:
            self._after.server(data)
            return
        try:
            items = self._answers.feed(data)
        except MalformedError:
            self.blind[Direction.IN] = True
            return
        for item in items:
            if isinstance(item, HttpResponse):
                self._answered = True
            elif isinstance(item, Opaque):
                self._beyond(item)

    def _request(self, data: bytes) -> bytes:
        """Check requests; return the bytes after a request that asks for a change, or b"". Raises MalformedError."""
        for item in self._requests.feed(data):
            if isinstance(item, HttpRequest):
                self._answers.asked(item)
                if item.method == "CONNECT" or item.upgrade:
                    self._wanted = "connect" if item.method == "CONNECT" else item.upgrade
            elif isinstance(item, Opaque):
                if item.desync:
                    raise MalformedError("not an HTTP request")
                self._requests = RequestStream()
                return item.data
        return b""

    def _beyond(self, item: Opaque) -> None:
        """Check the server's bytes after the end of its HTTP/1 answers. Raises MalformedError."""
        if item.desync and not self._answered:
            raise MalformedError("not an HTTP answer")
        if item.desync or not self._wanted:
            self.blind[Direction.IN] = True
            return
        self._change()
        if self._after is not None:
            self._after.server(item.data)

    def _change(self) -> None:
        """Continue with the protocol that the server agreed to. Raises MalformedError if it is not part of HTTP."""
        protocols = self._wanted.split(",")
        if "websocket" in protocols:
            self._after = _WebSocket()
        elif "h2c" in protocols:
            self._after = Http2Framing()
        elif self._wanted == "connect" and self._depth < MAX_TUNNELS:
            self._after = HttpFraming(self._depth + 1)
        else:
            raise MalformedError("an upgrade to a protocol that is not part of HTTP")


class _WebSocket(Framing):
    """Checks the headers of WebSocket frames in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self._sides = WebSocketStream(client=True), WebSocketStream(client=False)

    def client(self, data: bytes) -> None:
        self._sides[Direction.OUT].feed(data)

    def server(self, data: bytes) -> None:
        self._sides[Direction.IN].feed(data)
