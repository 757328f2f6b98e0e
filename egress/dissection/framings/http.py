"""The framing of HTTP/1: heads and bodies of the client, and what follows where the connection leaves HTTP/1.

- The client's bytes are requests until the server agrees to a change: with 101 to an Upgrade, with 2xx to CONNECT.
- After an upgrade to WebSocket or HTTP/2 (h2c) they are its frames. Another upgrade leaves what HTTP is.
- A tunnel (CONNECT) must carry HTTP again.
- The server's first bytes begin an answer. Later ones are read for its agreement only: an answer whose length egress
  reads otherwise than the client does is no reason to refuse a flow.
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
    """HTTP/1 over TCP. `depth`: the number of tunnels around it."""

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
        """Read requests; return the bytes after one that asks for a change."""
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
        """Check the server's bytes after its last answer."""
        if item.desync and not self._answered:
            raise MalformedError("not an HTTP answer")
        if item.desync or not self._wanted:
            self.blind[Direction.IN] = True
            return
        self._change()
        if self._after is not None:
            self._after.server(item.data)

    def _change(self) -> None:
        """Begin with what follows HTTP/1, as the server has agreed to it."""
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
    def __init__(self) -> None:
        super().__init__()
        self._sides = WebSocketStream(client=True), WebSocketStream(client=False)

    def client(self, data: bytes) -> None:
        self._sides[Direction.OUT].feed(data)

    def server(self, data: bytes) -> None:
        self._sides[Direction.IN].feed(data)
