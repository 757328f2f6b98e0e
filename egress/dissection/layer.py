"""A layer of dissection: one stream, one flow of datagrams or one channel of packets, with the layers inside it.

Depth and cost of the inner layers are bounded for each flow. No layer refers to the layer around it, so a flow that is
dropped is freed at once.
"""

from __future__ import annotations

from collections.abc import Callable

from egress.dissection.events import Unread
from egress.dissection.protocol import Carrier, Fact, Follower, Form, Inner, Place, StreamProtocol
from egress.dissection.registry import Registry
from egress.model import Direction

NESTING = 4  # protocols inside one another that are followed; deeper bytes are read by line protocols only
MAX_CHANNELS = 8  # streams or flows that one protocol may carry at a time; with each layer around it half as many
AMPLIFICATION = 16  # carried bytes that are dissected for each byte of the flow; a follower may unpack more


class Layer:
    """Base class: one direction of a stream, or both directions of a flow of datagrams or of a channel of packets."""

    __slots__ = ()

    def feed(self, data: bytes, direction: Direction) -> list[Fact]:
        """Dissect the next bytes of a stream (in order), a datagram or a packet; return the facts they complete."""
        raise NotImplementedError


Both = dict[tuple[int, ...], Layer]  # by path


class Shared:
    """The state that all layers of one flow share: its protocol instances, and the budget for carried bytes.

    `left`: the number of carried bytes that may still be dissected.
    """

    __slots__ = ("layer", "left", "protocols", "registry")

    def __init__(self, registry: Registry, layer: Callable[[Place, Shared, Both], Layer]) -> None:
        self.registry = registry
        self.layer = layer  # makes the layer for a form of bytes
        self.protocols: dict[type[StreamProtocol], StreamProtocol] = {}
        self.left = 0

    def follow(self, protocol: type[StreamProtocol], head: bytes, place: Place) -> Follower:
        """Return a follower for one direction. Both directions get theirs from the same instance of the protocol.

        `head`: the bytes that identified the protocol.
        """
        instance = self.protocols.get(protocol)
        if instance is None:
            instance = self.protocols[protocol] = protocol()
        return instance.follow(head, place)

    def afford(self, size: int) -> bool:
        """Subtract `size` from `left` and return True; return False if fewer bytes are left."""
        if size > self.left:
            return False
        self.left -= size
        return True


class Inside:
    """The layers inside one layer, by channel.

    A stream has one direction. The datagrams or packets of a channel form one layer for both directions, which is kept
    in `both`: the two sides of the carrying stream share that mapping.
    """

    __slots__ = ("_both", "_place", "_shared", "_streams")

    def __init__(self, place: Place, carrier: Carrier, shared: Shared, both: Both) -> None:
        self._place = place._replace(carrier=carrier)
        self._shared = shared
        self._both = both
        self._streams: dict[tuple[int, Direction], Layer] = {}

    def feed(self, inner: Inner, direction: Direction) -> list[Fact]:
        """Dissect carried bytes of a channel; return their facts.

        Bytes that exceed MAX_CHANNELS or `Shared.left` are not dissected and give an `Unread`. Bytes at depth NESTING
        or more give an `Unread`, too, but line protocols still read them.
        """
        _, data, channel, begins = inner
        layer = None if begins else self._streams.get((channel, direction))
        if layer is None:
            layer = self._begin(inner, direction)
        if layer is None or not self._shared.afford(len(data)):
            return [Unread(len(data))] if data else []
        facts = layer.feed(data, direction)
        return [Unread(len(data)), *facts] if self._place.depth >= NESTING else facts

    def _begin(self, inner: Inner, direction: Direction) -> Layer | None:
        """Return the layer for bytes that begin a stream, or for a datagram or packet; None if there is no room."""
        if inner.form is Form.DATAGRAM or inner.form is Form.PACKET:
            path = (*self._place.path, inner.channel)
            layer = self._both.get(path)
            if layer is None and len(self._both) < MAX_CHANNELS:
                layer = self._both[path] = self._make(inner, direction, {})
            return layer
        key = inner.channel, direction
        full = len(self._streams) >= max(1, MAX_CHANNELS >> self._place.depth)
        if not inner.begins or (full and key not in self._streams):
            return None
        layer = self._streams[key] = self._make(inner, direction, self._both)
        return layer

    def _make(self, inner: Inner, direction: Direction, both: Both) -> Layer:
        path = (*self._place.path, inner.channel)
        return self._shared.layer(
            self._place._replace(form=inner.form, direction=direction, path=path), self._shared, both
        )
