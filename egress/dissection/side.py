"""One direction of a stream: of a TCP connection, or of a stream inside another protocol.

Its bytes go to every line reader and to the protocol that its beginning identified. So no byte is judged by one guess
alone: bytes that look like a TLS hello or an HTTP request may be a line that the receiver skips. Readers are made when
the first payload comes, and dropped when they can match no more.
"""

from __future__ import annotations

from collections.abc import Sequence

from egress.dissection.events import Unread
from egress.dissection.layer import NESTING, Both, Inside, Layer, Shared
from egress.dissection.protocol import (
    AFTER,
    Carrier,
    Fact,
    Follower,
    Form,
    Identified,
    Inner,
    Lost,
    Place,
    Reader,
    Rest,
    StreamProtocol,
)
from egress.model import App, Direction

HEAD_BYTES = 32768  # bytes kept of a direction until its protocol is identified


class Side(Layer):
    """One direction of a stream. `opaque`: True once nothing more can be learnt from it."""

    __slots__ = (
        "_both",
        "_candidates",
        "_carrier",
        "_ended",
        "_follower",
        "_head",
        "_inside",
        "_place",
        "_readers",
        "_shared",
    )

    def __init__(self, place: Place, shared: Shared, both: Both) -> None:
        self._shared = shared
        self._both = both
        self._begin(place)

    def _begin(self, place: Place, *, identified: bool = True) -> None:
        """Begin a new stream with the next byte. `identified`: whether its first bytes may identify a protocol."""
        self._place = place
        known = self._shared.registry.streams[place.form]
        self._candidates: Sequence[type[StreamProtocol]] = known if identified and place.depth <= NESTING else ()
        self._head = b""
        self._carrier: Carrier = "" if place.form is Form.STREAM else place.carrier
        self._follower: Follower | None = None
        self._readers: list[Reader] | None = None
        self._inside: Inside | None = None
        self._ended = False

    @property
    def opaque(self) -> bool:
        return self._ended or (self._follower is not None and self._follower.opaque)

    def feed(self, data: bytes, direction: Direction) -> list[Fact]:
        facts: list[Fact] = []
        whole = self._identify(data, facts) if self._candidates else data
        if self._follower is not None:
            for step in self._follower.feed(whole):
                if isinstance(step, Inner):
                    facts += self._carried(step)
                elif isinstance(step, (Rest, Lost)):
                    return facts + self._over(step)
                else:
                    facts.append(step)
        readers = self._readers
        if readers is None:
            readers = self._readers = self._new_readers()
        for reader in readers:
            found = reader.feed(data, self._carrier)
            if found:
                facts += found
            if reader.done:
                self._give_up(reader)
        return facts

    def _identify(self, data: bytes, facts: list[Fact]) -> bytes:
        """Look for a protocol in the bytes so far, and add an `Identified` to `facts` if one matches.

        Returns the bytes for its follower: all bytes so far, or `data` if none matches.
        """
        head = self._head + data
        possible = []
        for protocol in self._candidates:
            match = protocol.identify(head, self._place)
            if match:
                self._candidates, self._head = (), b""
                self._carrier = protocol.app
                self._follower = self._shared.follow(protocol, head, self._place)
                facts.append(Identified(protocol.app))
                self._confine(self._follower.beside)
                return head
            if match is None:
                possible.append(protocol)
        self._candidates = possible if len(head) < HEAD_BYTES else ()
        self._head = head if self._candidates else b""
        return data

    def _confine(self, beside: frozenset[App] | None) -> None:
        """Drop the readers of protocols that are not in `beside`; None: keep all."""
        if self._readers is not None and beside is not None:
            self._readers = [reader for reader in self._readers if reader.app in beside]

    def _new_readers(self) -> list[Reader]:
        beside = None if self._follower is None else self._follower.beside
        return self._shared.registry.readers(self._place, beside)

    def _give_up(self, done: Reader) -> None:
        self._readers = [reader for reader in self._readers or () if reader is not done]
        if done.opaque:
            self._ended = True
            if self._follower is not None:  # its protocol was a guess, the reader's is certain
                self._follower.opaque = True

    def _carried(self, inner: Inner) -> list[Fact]:
        if self._inside is None:
            self._inside = Inside(self._place, self._carrier, self._shared, self._both)
        return self._inside.feed(inner, self._place.direction)

    def _over(self, step: Rest | Lost) -> list[Fact]:
        """Begin a new stream after a Rest, or after a Lost without identification; return the facts of its bytes."""
        if isinstance(step, Rest):
            self._begin(self._place._replace(path=(*self._place.path, AFTER), carrier=self._carrier))
        else:
            self._begin(self._place, identified=False)
        if not step.data:
            return []
        if not self._shared.afford(len(step.data)):
            return [Unread(len(step.data))]
        return self.feed(step.data, self._place.direction)
