"""The framing of QUIC: a ClientHello that egress can read, and headers of versions 1 and 2 (RFC 9000, RFC 9369)."""

from __future__ import annotations

from egress.dissection.framing import Framing
from egress.wire.quic import QuicHello, check_datagram, has_long_header


class QuicFraming(Framing):
    """Checks QUIC over UDP: all of the client's datagrams up to its ClientHello, and later ones with a long header.

    Of the client's later datagrams with a short header, and of all datagrams of the server, only the header is checked:
    the rest is encrypted. So it does not prove QUIC (`proves` is False).
    """

    def __init__(self) -> None:
        super().__init__()
        self._hello = QuicHello()

    def client(self, data: bytes) -> None:
        if self._hello.done and not has_long_header(data):
            check_datagram(data)
        else:
            self._hello.feed(data)

    def server(self, data: bytes) -> None:
        check_datagram(data)
