"""A layer of dissection: one stream, flow of datagrams or channel of packets, and the layers that it carries.

Depth and cost of what is carried inside are bounded for each flow. No layer refers to what holds it, so a flow that is
dropped is freed at once.
"""

from __future__ import annotations

from collections.abc import Callable

from egress.dissection.protocol import Carrier, Fact, Follower, Form, Inner, Place, StreamProtocol
from egress.dissection.registry import Registry
from egress.model import Direction

NESTING = 4  # protocols inside one another that are followed; what is deeper is read by lines only
MAX_CHANNELS = 8  # streams or flows that one protocol may carry at a time; with each layer around it half as many
AMPLIFICATION = 16  # bytes dissected inside others, for each byte of the flow: what a follower unpacks may be more


class Layer:
    """One direction of a stream, or both directions of a flow of datagrams or of a channel of packets."""

    __slots__ = ()

    def feed(self, data: bytes, direction: Direction) -> list[Fact]:
        """Dissect the next bytes of a stream, in order, datagram or packet; return the facts that they complete."""
        raise NotImplementedError


Both = dict[tuple[int, ...], Layer]  # by path


class Shared:
    """The state that all layers of one flow share: its protocols, and the bytes it may still have dissected inside."""

    __slots__ = ("layer", "left", "protocols", "registry")

    def __init__(self, registry: Registry, layer: Callable[[Place, Shared, Both], Layer]) -> None:
        self.registry = registry
        self.layer = layer  # makes the layer for a form of bytes
        self.protocols: dict[type[StreamProtocol], StreamProtocol] = {}
        self.left = 0

    def follow(self, protocol: type[StreamProtocol], head: bytes, place: Place) -> Follower:
        """Return the follower of one direction, from the instance of its protocol that serves the whole flow."""
        instance = self.protocols.get(protocol)
        if instance is None:
            instance = self.protocols[protocol] = protocol()
        return instance.follow(head, place)

    def afford(self, size: int) -> bool:
        """Spend this many bytes of the flow's account; False if it has fewer."""
        if size > self.left:
            return False
        self.left -= size
        return True


class Inside:
    """All that the protocol of one layer carries, by channel.

    A stream is in one direction. Datagrams and packets of a channel are one layer for both directions, and so in
    `both`, which the two sides of a carrying stream have in common.
    """

    __slots__ = ("_both", "_place", "_shared", "_streams")

    def __init__(self, place: Place, carrier: Carrier, shared: Shared, both: Both) -> None:
        self._place = place._replace(carrier=carrier)
        self._shared = shared
        self._both = both
        self._streams: dict[tuple[int, Direction], Layer] = {}

    def feed(self, inner: Inner, direction: Direction) -> list[Fact]:
        """Dissect bytes of a channel; those beyond the bounds of depth, channels or AMPLIFICATION are skipped."""
        _, data, channel, begins = inner
        layer = None if begins else self._streams.get((channel, direction))
        if layer is None:
            layer = self._begin(inner, direction)
        if layer is None or not self._shared.afford(len(data)):
            return []
        return layer.feed(data, direction)

    def _begin(self, inner: Inner, direction: Direction) -> Layer | None:
        """Return the layer for bytes that begin a stream, or for a datagram or packet, if there is room."""
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
