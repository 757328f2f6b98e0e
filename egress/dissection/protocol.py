"""The interface of a protocol in dissection: how it is recognised, how it is followed, and the steps that result.

A protocol is one class in one file of `egress.dissection.protocols`, of one of the four kinds below. `identify` looks
at the first bytes; a *follower* then turns the ordered bytes of one direction into steps. A step is a fact, or hands
bytes back, which are then dissected like the flow's own:

- `Inner`: bytes of a stream, a datagram or a packet inside the protocol, which continues (an HTTP body);
- `Rest`: the protocol has ended, and another stream begins in its place (after CONNECT, after a SOCKS handshake);
- `Lost`: the bytes are not that protocol after all.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar, Literal, NamedTuple, Self

from egress.dissection.events import Event, Named
from egress.dissection.framing import Framing
from egress.model import App, Direction

Carrier = App | Literal[""]  # the protocol that carries some bytes, "" for none
Match = (
    bool | None
)  # as the readers in `egress.wire` answer: yes, no, or None: too few bytes to tell. Yes and no are final


class Form(StrEnum):
    """The kind of unit that bytes belong to; `Protocol.forms` lists the forms in which a protocol occurs."""

    STREAM = "stream"  # one direction of a connection, or of a connection inside another
    REQUEST = "request"  # the content of one message that asks for something
    ANSWER = "answer"  # the content of one message that answers
    DATAGRAM = "datagram"  # the payload of one packet that is not TCP
    PACKET = "packet"  # one IP packet with its headers


AFTER = -1  # in a path


class Place(NamedTuple):
    """The position of bytes in a flow: their form and direction, and the protocols around them."""

    form: Form
    direction: Direction
    proto: int  # IP protocol that carries the flow
    path: tuple[int, ...] = ()  # the channel in each protocol around them; AFTER: the stream that follows it
    carrier: Carrier = ""  # the nearest of these protocols

    @property
    def depth(self) -> int:
        """The number of protocols around the bytes."""
        return len(self.path)


class Identified(NamedTuple):
    """A protocol was recognised, or a server name was read from its bytes.

    It sets the flow's app, so a protocol that is recognised inside another replaces it.
    """

    app: App
    server_name: str = ""


class Inner(NamedTuple):
    """Bytes that a protocol carries. Each channel is a stream of its own, or a flow of datagrams or packets."""

    form: Form
    data: bytes
    channel: int = 0
    begins: bool = False  # the first bytes of a stream; the one that was open on this channel is over


class Rest(NamedTuple):
    """The protocol ended: these bytes, and all after them in this direction, are a stream of their own."""

    data: bytes


class Lost(NamedTuple):
    """The bytes are not of the identified protocol: in these and all later ones, only line protocols are looked for."""

    data: bytes


Fact = Event | Identified
Step = Fact | Inner | Rest | Lost


class Follower:
    """Follows one direction of an identified protocol from its first byte.

    `opaque`: True once nothing more can be learnt from this direction. `beside`: the line protocols that may still read
    its bytes, too, since a receiver may take a message of this protocol for a line; None: all line protocols.
    """

    opaque: bool = False
    beside: frozenset[App] | None = None

    def feed(self, data: bytes) -> list[Step]:
        """Return the facts and the carried bytes in the next bytes, which come in order. Never raises.

        A Rest or a Lost must be the last step: after it the follower is not called any more.
        """
        raise NotImplementedError


class Reader:
    """Searches one direction for a line protocol, beside the protocol that was identified in it, if any.

    `done`: True once it will return no more facts. `opaque`: True once the rest of the direction belongs to its
    protocol and nothing more can be learnt from it.
    """

    app: App
    done: bool = False
    opaque: bool = False

    def feed(self, data: bytes, carrier: Carrier) -> list[Fact]:
        """Return the facts in the next bytes, which come in order. Never raises.

        `carrier`: the protocol identified around the bytes so far, "" for none.
        """
        raise NotImplementedError


class Protocol:
    """Base class of one protocol. `forms`: the forms of bytes in which it occurs, the likeliest first.

    A protocol that occurs in streams and in datagrams derives from both kinds; `place.form` tells them apart.
    """

    app: ClassVar[App]
    forms: ClassVar[tuple[Form, ...]]
    framings: ClassVar[Mapping[int, type[Framing]]] = MappingProxyType({})  # by the IP protocol that carries it
    many_names: ClassVar[bool] = False  # each message of a connection may ask for another server


class StreamProtocol(Protocol):
    """A protocol that the first bytes of a direction identify. One instance serves both directions of a flow."""

    @staticmethod
    def identify(head: bytes, place: Place) -> Match:
        """Return whether all bytes of a direction so far begin this protocol; None: too few to tell."""
        raise NotImplementedError

    def follow(self, head: bytes, place: Place) -> Follower:
        """Return a follower for a direction that `head` identified; the caller feeds it `head` first."""
        raise NotImplementedError


class LineProtocol(Protocol):
    """A protocol that may begin at any line, after any other bytes. Its reader is fed every byte of a direction."""

    @staticmethod
    def reader(place: Place) -> Reader:
        """Make the reader for one direction of the bytes in `place`."""
        raise NotImplementedError


class DatagramProtocol(Protocol):
    """A protocol that one datagram identifies. One instance follows both directions of a flow."""

    forms = (Form.DATAGRAM,)
    reconnects: ClassVar[bool] = False  # a later datagram may open another connection, so the flow never settles
    carries: ClassVar[bool] = False  # it carries flows of others, which may begin at any time: it is never opaque

    @classmethod
    def begin(cls, place: Place) -> Self:  # noqa: ARG003
        """Make the instance for a flow that a datagram in `place` identified; most protocols ignore the place."""
        return cls()

    @staticmethod
    def identify(data: bytes, place: Place) -> Match:
        """Return whether a datagram identifies this protocol; None: it does not, but a later one may."""
        raise NotImplementedError

    @staticmethod
    def reopens(data: bytes) -> bool:
        """Return whether this datagram may begin another connection on a flow that is no longer inspected."""
        return False

    def datagram(self, direction: Direction, data: bytes) -> list[Step]:
        """Return the facts and the carried bytes in the next datagram; never raises."""
        raise NotImplementedError


class PortProtocol(Protocol):
    """A protocol that is expected at a server's port. One instance is fed all bytes of both directions of a flow."""

    port: ClassVar[int]
    asked: bool = False  # a message was read; later ones may ask for other names

    def segment(self, direction: Direction, data: bytes) -> list[Fact]:
        """Return the facts in the next bytes of one direction over TCP; never raises.

        Other protocols are looked for in these bytes, too.
        """
        raise NotImplementedError

    def datagram(self, direction: Direction, data: bytes) -> list[Fact]:
        """Return the facts in the next datagram over UDP; never raises. No other protocol is looked for in it."""
        raise NotImplementedError


def named(place: Place, name: str, *, hidden: bool = False) -> list[Step]:
    """Return one `Named` step for the server name in the agent's bytes, or no step for the other side's bytes.

    `hidden` is as in `Named`.
    """
    return [Named(name, hidden)] if place.direction is Direction.OUT else []
