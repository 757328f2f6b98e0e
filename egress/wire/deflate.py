"""Inflates the messages of one direction of WebSocket's permessage-deflate (RFC 7692), within bounds."""

from __future__ import annotations

import zlib

from egress.errors import MalformedError

RATIO = 64  # bytes out for each byte in; JSON that repeats itself inflates to some ten times its size
ROOM = 65536  # bytes out besides, of all messages together
_TAIL = b"\x00\x00\xff\xff"  # which the sender leaves out at the end of a message (section 7.2.1)


class Inflate:
    """An inflater for one direction. Mutable; feed it the payloads of compressed messages, in order.

    Its window is kept from message to message, as context takeover needs; it does no harm to a sender without context
    takeover, which never refers back. All messages share one bound: RATIO bytes out for each byte in, and ROOM more.
    After a MalformedError it must not be fed again.
    """

    __slots__ = ("_room", "_state")

    def __init__(self) -> None:
        self._room = ROOM  # bytes that may come out besides those of the next bytes in
        self._state = zlib.decompressobj(wbits=-zlib.MAX_WBITS)

    def feed(self, data: bytes, *, ends: bool) -> bytes:
        """Return the inflated bytes of a piece of a message; `ends`: this piece is the message's last.

        Raises MalformedError for data that is not deflate, or that inflates to more than the bound.
        """
        room = RATIO * len(data) + self._room
        try:
            plain = self._state.decompress(data + _TAIL if ends else data, max(room, 1))  # 0 would mean no bound
        except zlib.error:
            raise MalformedError("not a compressed WebSocket message") from None
        if self._state.unconsumed_tail:
            raise MalformedError("a WebSocket message inflates to too much")
        self._room = min(max(room - len(plain), 0), ROOM)
        if self._state.eof:  # a final block: the next message begins another stream (section 7.2.3.4)
            self._state = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        return plain
