"""SSH before encryption: the identification, which may begin at any line, and the packets of the key exchange."""

from __future__ import annotations

from types import MappingProxyType

from egress.dissection.events import SshPacket, SshSpoken
from egress.dissection.framings.ssh import SshFraming
from egress.dissection.protocol import Carrier, Fact, Form, Identified, LineProtocol, Place, Reader
from egress.model import TCP, App
from egress.wire.ssh import SshIdent, SshStream


class Ssh(LineProtocol):
    """SSH at any line of a stream, and at the very start of the content of a request or an answer.

    Such content may be a text about SSH: an identification with nothing after it is reported, but does not identify the
    flow as SSH.
    """

    app = App.SSH
    framings = MappingProxyType({TCP: SshFraming})
    forms = (Form.STREAM, Form.REQUEST, Form.ANSWER)

    @staticmethod
    def reader(place: Place) -> Reader:
        return _Lines(place)


class _Lines(Reader):
    """Reads SSH in one direction, or in the content of one message."""

    app = App.SSH

    def __init__(self, place: Place) -> None:
        self._direction = place.direction
        self._stream = SshStream(exact=place.form is not Form.STREAM)
        self._alone: SshIdent | None = None

    def feed(self, data: bytes, carrier: Carrier) -> list[Fact]:
        facts: list[Fact] = []
        stream = self._stream
        for found in stream.feed(data):
            if isinstance(found, SshIdent) and not stream.identified:
                self._alone = found
                facts.append(SshSpoken(self._direction, found, alone=True))
            elif isinstance(found, SshIdent):
                facts += self._identified(found)
            else:
                if self._alone is not None:
                    facts += self._identified(self._alone)
                    self._alone = None
                facts.append(SshPacket(self._direction, found))
        if stream.done:
            self.done, self.opaque = True, stream.identified
        return facts

    def _identified(self, ident: SshIdent) -> list[Fact]:
        """Return the facts of an identification that is certain."""
        return [Identified(App.SSH), SshSpoken(self._direction, ident)]
