"""Follow the kernel's notifications: look at our rules, or at the agents' interfaces, as soon as they change."""

from __future__ import annotations

import asyncio
import socket

from egress.gateway.kernel.watch import Watch
from egress.gateway.supervisor.coalesce import Coalesced


class Watching:
    """Schedules `rules` after a change of our rules by others, and `links` after a change of the set of interfaces."""

    def __init__(self, own: int, rules: Coalesced, links: Coalesced) -> None:
        self._own, self._rules, self._links = own, rules, links
        self._watch: Watch | None = None
        self._seen: frozenset[tuple[int, str]] = frozenset()

    def start(self) -> None:
        """Subscribe. Raises EgressError."""
        self._watch = Watch()
        self._seen = _interfaces()
        for each in self._watch.sockets:
            asyncio.get_running_loop().add_reader(each, self._read)

    async def stop(self) -> None:
        """Unsubscribe, and end work that is scheduled."""
        if self._watch is not None:
            for each in self._watch.sockets:
                asyncio.get_running_loop().remove_reader(each)
            self._watch.close()
            self._watch = None
        await self._rules.stop()
        await self._links.stop()

    def _read(self) -> None:
        if self._watch is None:
            return
        changes = self._watch.read(self._own)
        if changes.rules:
            self._rules.schedule()
        if changes.links and (now := _interfaces()) != self._seen:
            self._seen = now
            self._links.schedule()


def _interfaces() -> frozenset[tuple[int, str]]:
    """List index and name of the interfaces, without those of sandboxes: they come and go by our own hand."""
    return frozenset(each for each in socket.if_nameindex() if not each[1].startswith("egr"))
