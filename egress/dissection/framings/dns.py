"""The framing of DNS: over UDP a message per datagram; over TCP, messages after a length prefix (RFC 7766)."""

from __future__ import annotations

from egress.dissection.framing import Framing
from egress.errors import MalformedError
from egress.model import Direction
from egress.wire.dns import check_framing, check_header
from egress.wire.dnsnames import HEADER


class DnsDatagrams(Framing):
    """Checks DNS over UDP: each datagram of the client must be a query, each of the server an answer."""

    proves = True

    def client(self, data: bytes) -> None:
        check_framing(data, answer=False)

    def server(self, data: bytes) -> None:
        check_framing(data, answer=True)


class DnsMessages(Framing):
    """Checks DNS over TCP: each message of the client must be a query, each of the server an answer.

    A message's header is checked as soon as it has come, and the whole message once it is complete.
    """

    proves = True

    def __init__(self) -> None:
        super().__init__()
        self._sides = _Messages(answer=False), _Messages(answer=True)

    def pick_up(self) -> None:
        self.blind[Direction.IN] = True

    def client(self, data: bytes) -> None:
        self._sides[Direction.OUT].feed(data)

    def server(self, data: bytes) -> None:
        self._sides[Direction.IN].feed(data)


class _Messages:
    """Checks the messages of one direction over TCP; it keeps less than one message."""

    __slots__ = ("_answer", "_kept")

    def __init__(self, *, answer: bool) -> None:
        self._answer = answer
        self._kept = bytearray()

    def feed(self, data: bytes) -> None:
        """Check the next bytes, in order. Raises MalformedError."""
        kept = self._kept
        kept += data
        at = 0
        while len(kept) - at >= 2:
            size = int.from_bytes(kept[at : at + 2])
            if size < HEADER:
                raise MalformedError("DNS message is too short")
            if len(kept) - at < 2 + size:
                if len(kept) - at >= 2 + HEADER:
                    check_header(bytes(kept[at + 2 : at + 2 + HEADER]), size, answer=self._answer)
                break
            check_framing(bytes(kept[at + 2 : at + 2 + size]), answer=self._answer)
            at += 2 + size
        del kept[:at]
