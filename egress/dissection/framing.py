"""Framing: whether the bytes of a flow keep to one protocol, from the first byte on.

Dissection finds a protocol wherever a receiver might see it; a framing answers the opposite question. It raises at the
first bytes that the protocol does not have there, and until then the flow may be that protocol.
"""

from __future__ import annotations

from typing import ClassVar

from egress.errors import MalformedError
from egress.model import Direction


class Framing:
    """The framing of one protocol in both directions of a flow, which the agent opened: it is the client.

    `proves`: a flow whose bytes kept to it, as many as are inspected, is this protocol. A direction is *blind* once
    bytes of it were not seen: where its messages begin is not known any more, and nothing in it is checked.
    """

    proves: ClassVar[bool] = False

    def __init__(self) -> None:
        self.blind = [False, False]

    def feed(self, direction: Direction, data: bytes) -> None:
        """Take the next bytes of a direction, in order, or its next datagram. Raises MalformedError."""
        if self.blind[direction]:
            return
        if direction is Direction.OUT:
            self.client(data)
        else:
            self.server(data)

    def pick_up(self) -> None:
        """Begin in mid-stream: the client's next byte must begin a message, and the server's are not checked.

        Raises MalformedError if the protocol shows no such place.
        """
        raise MalformedError("the beginning of the connection was not seen")

    def client(self, data: bytes) -> None:
        """Check the next bytes, or the next datagram, of the client. Raises MalformedError."""
        raise NotImplementedError

    def server(self, data: bytes) -> None:
        """Check the next bytes, or the next datagram, of the server. Raises MalformedError."""
        raise NotImplementedError
