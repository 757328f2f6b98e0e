"""The framing of SSH: everything before encryption starts; later bytes cannot be checked."""

from __future__ import annotations

from egress.dissection.framing import Framing
from egress.wire.sshframing import SshFraming as SshSide


class SshFraming(Framing):
    """Checks SSH over TCP. The client must begin with its identification; a server may send other lines before it."""

    def __init__(self) -> None:
        super().__init__()
        self._client = SshSide(server=False)
        self._server = SshSide(server=True)

    def client(self, data: bytes) -> None:
        self._client.feed(data)

    def server(self, data: bytes) -> None:
        self._server.feed(data)
