"""A flow of datagrams, both directions: one datagram identifies the protocol, which reads it and all later ones."""

from __future__ import annotations

from collections.abc import Sequence

from egress.dissection.layer import NESTING, Inside, Layer, Shared
from egress.dissection.protocol import DatagramProtocol, Fact, Identified, Inner, Lost, Place, Rest
from egress.model import Direction


class Datagrams(Layer):
    """A flow of datagrams, both directions. After its protocol has ended (`Rest` or `Lost`) it gives no more facts."""

    __slots__ = ("_candidates", "_followed", "_inside", "_place", "_shared")

    def __init__(self, place: Place, shared: Shared) -> None:
        self._place = place
        self._shared = shared
        self._candidates: Sequence[type[DatagramProtocol]] = shared.registry.datagrams if place.depth <= NESTING else ()
        self._followed: DatagramProtocol | None = None
        self._inside: Inside | None = None

    @property
    def carries(self) -> bool:
        """True if the identified protocol carries flows of other hosts (a tunnel)."""
        return self._followed is not None and self._followed.carries

    def feed(self, data: bytes, direction: Direction) -> list[Fact]:
        facts: list[Fact] = []
        if self._followed is None and self._candidates:
            self._identify(self._place._replace(direction=direction), data, facts)
        if self._followed is None:
            return facts
        for step in self._followed.datagram(direction, data):
            if isinstance(step, Inner):
                facts += self._carried(step, direction)
            elif isinstance(step, (Rest, Lost)):
                self._followed = None
                break
            else:
                facts.append(step)
        return facts

    def _identify(self, place: Place, data: bytes, facts: list[Fact]) -> None:
        """Try the protocols that are left on a datagram; add an `Identified` to `facts` if one matches."""
        possible = []
        for protocol in self._candidates:
            match = protocol.identify(data, place)
            if match:
                self._candidates, self._followed = (), protocol.begin(place)
                self._place = place._replace(carrier=protocol.app)
                facts.append(Identified(protocol.app))
                return
            if match is None:
                possible.append(protocol)
        self._candidates = possible

    def _carried(self, inner: Inner, direction: Direction) -> list[Fact]:
        if self._inside is None:
            self._inside = Inside(self._place, self._place.carrier, self._shared, {})
        return self._inside.feed(inner, direction)
