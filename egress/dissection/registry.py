"""The protocols that dissection knows, sorted by the way in which they are recognised."""

from __future__ import annotations

from collections.abc import Iterable

from egress.discovery import detectors
from egress.dissection import protocols
from egress.dissection.framing import Framing
from egress.dissection.protocol import (
    DatagramProtocol,
    Form,
    LineProtocol,
    Place,
    PortProtocol,
    Protocol,
    Reader,
    StreamProtocol,
)
from egress.model import App

ATTRIBUTES = ("app", "forms")


def load() -> list[type[Protocol]]:
    """Return the protocols in `egress.dissection.protocols`: one class in each file, found by walking the package."""
    return [protocol for _, protocol in detectors(protocols, ATTRIBUTES)]


class Registry:
    """The protocols, sorted by the way in which they are recognised. Immutable.

    `streams` and `lines` are by form of bytes, the likeliest protocol first; `ports` by server port; `framings` by IP
    protocol, then by app. `many_names`: the apps whose messages may each ask for another server. `reconnecting`: the
    apps of which a later datagram may open another connection.
    """

    __slots__ = ("datagrams", "framings", "lines", "many_names", "ports", "protocols", "reconnecting", "streams")

    def __init__(self, known: Iterable[type[Protocol]]) -> None:
        self.protocols = tuple(known)
        self.streams: dict[Form, tuple[type[StreamProtocol], ...]] = {}
        self.lines: dict[Form, tuple[type[LineProtocol], ...]] = {}
        self.datagrams: tuple[type[DatagramProtocol], ...] = ()
        self.reconnecting = frozenset[App]()
        self.ports: dict[int, tuple[type[PortProtocol], ...]] = {}
        self.many_names = frozenset(protocol.app for protocol in self.protocols if protocol.many_names)
        self.framings: dict[int, dict[str, type[Framing]]] = {}
        for protocol in self.protocols:
            for proto, framing in protocol.framings.items():
                self.framings.setdefault(proto, {})[protocol.app] = framing
        for form in Form:
            occurring = [protocol for protocol in self.protocols if form in protocol.forms]
            occurring.sort(key=lambda protocol: protocol.forms.index(form))
            self.streams[form] = tuple(each for each in occurring if issubclass(each, StreamProtocol))
            self.lines[form] = tuple(each for each in occurring if issubclass(each, LineProtocol))
        for protocol in self.protocols:
            if issubclass(protocol, DatagramProtocol):
                self.datagrams += (protocol,)
                self.reconnecting |= {protocol.app} if protocol.reconnects else set()
            elif issubclass(protocol, PortProtocol):
                self.ports[protocol.port] = (*self.ports.get(protocol.port, ()), protocol)

    def readers(self, place: Place, beside: frozenset[App] | None) -> list[Reader]:
        """Make a reader for each line protocol that can occur in `place`.

        `beside`: only for protocols with these apps; None: for all.
        """
        return [each.reader(place) for each in self.lines[place.form] if beside is None or each.app in beside]

    def reopens(self, data: bytes) -> bool:
        """Return whether a datagram of the agent may begin another connection on a flow that is no longer inspected."""
        for protocol in self.datagrams:  # noqa: SIM110 - called for every datagram: no generator
            if protocol.reopens(data):
                return True
        return False


REGISTRY = Registry(load())
