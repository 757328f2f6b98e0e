"""The framing of TLS: a hello at the start (from a server also an alert), then record headers until the end."""

from __future__ import annotations

from egress.dissection.framing import Framing
from egress.errors import MalformedError
from egress.model import Direction
from egress.wire.tls import client_hello, looks_like_tls, server_hello
from egress.wire.tlsrecords import Records

MAX_HELLO = 32768  # bytes of a direction in which its hello must end; also of the records around it
OFTEN = 64  # bytes after which a hello in many records is tried again
_PREFIX = 9  # bytes of a record up to the end of the message's length, when the record holds that many
_SSL2, _SSL2_LONGEST = 0x80, 0x7FFF


class TlsFraming(Framing):
    """Checks TLS over TCP. `records`: the record headers of both directions, the client's first.

    A client hello in the format of SSL 2 (RFC 5246 appendix E.2) passes if it offers SSL 3 or TLS.
    """

    proves = True

    def __init__(self) -> None:
        super().__init__()
        self.records = Records(), Records()
        self._hello: bytes | None = b""  # of the client, as far as it has come; None: read, or not expected
        self._tried = 0  # bytes of the hello with which it was tried last
        self._answer: bytes | None = b""  # the beginning of the server's; None: it is that of TLS, or not expected

    def pick_up(self) -> None:
        self._hello = self._answer = None
        self.blind[Direction.IN] = True

    def client(self, data: bytes) -> None:
        if self._hello is not None:
            data = self._read_hello(self._hello + data, data)
        self.records[Direction.OUT].feed(data)

    def server(self, data: bytes) -> None:
        if self._answer is not None:
            self._answer += data
            begins = server_hello(self._answer)
            if begins is False:
                raise MalformedError("not the answer of a TLS server")
            if begins:
                self._answer = None
        self.records[Direction.IN].feed(data)

    def _read_hello(self, head: bytes, data: bytes) -> bytes:
        """Check the client's hello so far; return the part of `data` that belongs to records.

        `head`: the client's bytes from the first on; `data`: the newest of them. Raises MalformedError.
        """
        begins = looks_like_tls(head)
        if begins is False:
            raise MalformedError("not a TLS ClientHello")
        self._hello = head
        if head[0] & _SSL2:
            size = 2 + (int.from_bytes(head[:2]) & _SSL2_LONGEST)
            if begins is None or len(head) < size:
                return b""
            if head[3] != 3:
                raise MalformedError("SSL 2 is not TLS")
            self._hello = None
            return head[size:]
        if len(head) > MAX_HELLO:
            raise MalformedError("TLS ClientHello is too long")
        if self._is_due(head):
            self._tried = len(head)
            self._hello = None if client_hello(head) is not None else head
        return data

    def _is_due(self, head: bytes) -> bool:
        """Return whether to parse the hello now: it may be whole, and enough new bytes have come since the last try.

        Each try takes time for all records so far.
        """
        whole = _PREFIX if int.from_bytes(head[3:5]) < 4 else _PREFIX + int.from_bytes(head[6:_PREFIX])
        return len(head) >= whole and (not self._tried or len(head) - self._tried >= OFTEN)
