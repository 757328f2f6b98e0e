"""WebSocket: the messages of one direction, unmasked and inflated, as one stream inside HTTP."""

from __future__ import annotations

from egress.dissection.protocol import Form, Inner, Step
from egress.errors import MalformedError
from egress.wire.deflate import Inflate
from egress.wire.websocket import WebSocketStream

CHANNEL = 1  # bodies are on channel 0


class Messages:
    """The data messages of one direction. Mutable; feed it the bytes after the upgrade, in order.

    A text message ends with a line feed, so that a reader of lines finds the next one. Compressed messages that do not
    inflate, or inflate to too much, are left out from there on.
    """

    __slots__ = ("_begun", "_frames", "_inflate")

    def __init__(self, *, client: bool) -> None:
        self._frames = WebSocketStream(client=client)
        self._inflate: Inflate | None = Inflate()
        self._begun = False

    def feed(self, data: bytes) -> list[Step]:
        """Return the content in a chunk, if there is any. Raises MalformedError for what is no frame."""
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
        if self._inflate is None:
            return b""
        try:
            return self._inflate.feed(data, ends=ends)
        except MalformedError:
            self._inflate = None
            return b""
