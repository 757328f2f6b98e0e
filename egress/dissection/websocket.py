"""WebSocket inside HTTP: turns the messages of one direction, unmasked and inflated, into one stream of bytes."""

from __future__ import annotations

from egress.dissection.protocol import Form, Inner, Step
from egress.errors import MalformedError
from egress.wire.deflate import Inflate
from egress.wire.websocket import WebSocketStream

CHANNEL = 1  # bodies are on channel 0


class Messages:
    """The data messages of one direction. Mutable; feed it the bytes after the upgrade, in order.

    `client`: True for the client's direction. A line feed is added after each text message, so that a reader of lines
    finds the next message at a line start. If a compressed message cannot be inflated, or inflates to too much, the
    content of all later compressed messages is left out.
    """

    __slots__ = ("_begun", "_frames", "_inflate")

    def __init__(self, *, client: bool) -> None:
        self._frames = WebSocketStream(client=client)
        self._inflate: Inflate | None = Inflate()
        self._begun = False

    def feed(self, data: bytes) -> list[Step]:
        """Return the content in a chunk as one step (an `Inner` on CHANNEL), or no step if there is none.

        Raises MalformedError for bytes that are not a WebSocket frame.
        """
        pieces: list[bytes] = []
        for piece in self._frames.feed(data):
            pieces.append(self._inflated(piece.data, ends=piece.ends) if piece.compressed else piece.data)
            if piece.ends and piece.text:
                pieces.append(b"\n")
        content = b"".join(pieces)  # at the end: a segment may hold thousands of tiny frames
        if not content:
            return []
        begins, self._begun = not self._begun, True
        return [Inner(Form.STREAM, content, CHANNEL, begins)]

    def _inflated(self, data: bytes, *, ends: bool) -> bytes:
        """Return the inflated bytes of a piece; b"" from the first failure on."""
        if self._inflate is None:
            return b""
        try:
            return self._inflate.feed(data, ends=ends)
        except MalformedError:
            self._inflate = None
            return b""
