"""The base class of framings. A framing checks that a flow is one protocol, from its first byte to its last.

Dissection recognises a protocol wherever some receiver might see it. A framing is strict instead: it raises
MalformedError at the first bytes that its protocol does not have at that place. Until then the flow may be of that
protocol. Rules that demand an application protocol rely on it (`egress.policy.applications`).
"""

from __future__ import annotations

from typing import ClassVar

from egress.errors import MalformedError
from egress.model import Direction


class Framing:
    """The framing of one protocol for both directions of one flow. The agent, which opened the flow, is the client.

    `proves`: True if passing this check to the end of inspection proves the protocol; False if another protocol could
    pass it as well. `blind`: for each direction, True if some of its bytes were not seen. Then it is not known any more
    where messages begin, and `feed` checks nothing in that direction.
    """

    proves: ClassVar[bool] = False

    def __init__(self) -> None:
        self.blind = [False, False]

    def feed(self, direction: Direction, data: bytes) -> None:
        """Check the next bytes of a direction, in order, or its next datagram. Raises MalformedError."""
        if self.blind[direction]:
            return
        if direction is Direction.OUT:
            self.client(data)
        else:
            self.server(data)

    def pick_up(self) -> None:
        """Begin in mid-stream: the client's next byte must begin a message; the server's bytes are not checked.

        Raises MalformedError if the protocol cannot be checked from its middle; this base class always does.
        """
        raise MalformedError("the beginning of the connection was not seen")

    def client(self, data: bytes) -> None:
        """Check the client's next bytes, or its next datagram. Raises MalformedError."""
        raise NotImplementedError

    def server(self, data: bytes) -> None:
        """Check the server's next bytes, or its next datagram. Raises MalformedError."""
        raise NotImplementedError
