"""Find the agent of a queued packet by the kernel's interface index and, where agents share it, by address.

Nothing else in the packet is looked at. The worker drops a packet without an agent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import itemgetter

from egress.addresses import Networks
from egress.gateway.pipe.messages import Watched
from egress.model import Agent, Direction
from egress.wire.ip import destination, source

MAX_CACHED = 65536  # addresses remembered on shared interfaces


class Identity:
    """Looks up the agent and the direction of a packet."""

    def __init__(self, watched: Iterable[Watched]) -> None:
        shared: dict[int, list[tuple[Agent, Networks]]] = {}
        for entry in watched:
            if entry.interface == 0:
                continue  # its interface is gone; 0 is also the kernel's "none"
            shared.setdefault(entry.interface, []).append((entry.agent, Networks(entry.agent.networks)))
        self._alone = {index: agents[0][0] for index, agents in shared.items() if len(agents) == 1}
        self._shared = {index: agents for index, agents in shared.items() if len(agents) > 1}
        self._cache: dict[tuple[int, bytes], Agent | None] = {}

    def find(self, raw: bytes, indev: int, outdev: int) -> tuple[Agent, Direction] | None:
        """Return the agent and the packet's direction, seen from it; None if the packet belongs to no agent.

        Of a packet between two agents the sender is returned: the packet is in its queue. `raw`: the packet from its IP
        header; `indev` and `outdev`: interface indices, 0 for none.
        """
        agent = self._alone.get(indev) or self._by_address(raw, indev, source)
        if agent is not None:
            return agent, Direction.OUT
        if indev in self._shared:
            return None  # sent by one of the agents, with an address of another host
        agent = self._alone.get(outdev) or self._by_address(raw, outdev, destination)
        return None if agent is None else (agent, Direction.IN)

    def _by_address(self, raw: bytes, interface: int, end: Callable[[bytes], bytes]) -> Agent | None:
        agents = self._shared.get(interface)
        if agents is None or not raw:
            return None
        address = end(raw)
        key = interface, address
        if key not in self._cache:
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            self._cache[key] = _owner(agents, address)
        return self._cache[key]


def _owner(agents: list[tuple[Agent, Networks]], address: bytes) -> Agent | None:
    """Return the agent with the longest prefix that contains the address; of equal ones the first; None without one."""
    found = [(network.shift, agent) for agent, own in agents if (network := own.longest(address)) is not None]
    return min(found, key=itemgetter(0))[1] if found else None
