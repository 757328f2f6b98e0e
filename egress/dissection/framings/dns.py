"""The framing of DNS: whole messages over UDP, messages behind their length over TCP (RFC 7766 section 8)."""

from __future__ import annotations

from egress.dissection.framing import Framing
from egress.errors import MalformedError
from egress.model import Direction
from egress.wire.dns import check_framing, check_header
from egress.wire.dnsnames import HEADER


class DnsDatagrams(Framing):
    """DNS over UDP: the client sends queries, the server answers."""

    proves = True

    def client(self, data: bytes) -> None:
        check_framing(data, answer=False)

    def server(self, data: bytes) -> None:
        check_framing(data, answer=True)


class DnsMessages(Framing):
    """DNS over TCP. A message is checked twice: its header as soon as it has come, and all of it once it is whole."""

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
    """The messages of one direction over TCP; less than one message is kept."""

    __slots__ = ("_answer", "_kept")

    def __init__(self, *, answer: bool) -> None:
        self._answer = answer
        self._kept = bytearray()

    def feed(self, data: bytes) -> None:
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
