"""Follow the kernel's notifications, to check our rules, or the agents' interfaces, as soon as they change."""

from __future__ import annotations

import asyncio
import socket

from egress.gateway.kernel.watch import Watch
from egress.gateway.supervisor.coalesce import Coalesced


class Watching:
    """Schedules `rules` when others change our kernel rules, and `links` when an interface is added or removed.

    `own`: the netlink port of our own changes, which are ignored.
    """

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
        """Unsubscribe, and cancel scheduled work."""
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
    """Return index and name of all interfaces except those of sandboxes, which the gateway itself makes and removes."""
    return frozenset(each for each in socket.if_nameindex() if not each[1].startswith("egr"))
