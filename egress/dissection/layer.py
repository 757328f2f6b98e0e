"""A layer of a flow: a stream or datagrams that are dissected, and those that a protocol in them carries.

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
    """Bytes of one form in one place; a stream's directions are a layer each."""

    __slots__ = ()

    def feed(self, data: bytes, direction: Direction) -> list[Fact]:
        """Dissect the next bytes of a stream, in order, or the next datagram; return the facts that they complete."""
        raise NotImplementedError


class Shared:
    """The state that all layers of one flow share: its protocols, and the bytes it may still have dissected inside."""

    __slots__ = ("layer", "left", "protocols", "registry")

    def __init__(self, registry: Registry, layer: Callable[[Place, Shared], Layer]) -> None:
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
    """All that the protocol of one layer carries, by channel."""

    __slots__ = ("_layers", "_place", "_shared")

    def __init__(self, place: Place, carrier: Carrier, shared: Shared) -> None:
        self._place = place._replace(depth=place.depth + 1, carrier=carrier)
        self._shared = shared
        self._layers: dict[tuple[int, Direction | None], Layer] = {}

    def feed(self, inner: Inner, direction: Direction) -> list[Fact]:
        """Dissect bytes of a channel. Beyond the bounds they are left out."""
        shared = inner.form is Form.DATAGRAM  # both directions are one layer
        key = inner.channel, None if shared else direction
        layer = self._layers.get(key)
        if inner.begins or (layer is None and shared):
            if layer is None and len(self._layers) >= max(1, MAX_CHANNELS >> self._place.depth - 1):
                return []
            place = self._place._replace(form=inner.form, direction=direction)
            layer = self._layers[key] = self._shared.layer(place, self._shared)
        if layer is None or not self._shared.afford(len(inner.data)):
            return []
        return layer.feed(inner.data, direction)
