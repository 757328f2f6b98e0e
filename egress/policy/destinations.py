"""Destinations that are refused to an agent after a finding, until the agent has not tried them for some time."""

from __future__ import annotations

from collections import OrderedDict

MAX_DESTINATIONS = 4096  # of one agent; each cost it a proven finding, and no other agent can push them out


class Destinations:
    """The refused destinations of all agents. One is forgotten after `timeout` seconds without an attempt."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._agents: dict[str, OrderedDict[bytes, float]] = {}  # address to expiry, the first to expire first

    def remember(self, agent: str, remote: bytes, ts: float) -> None:
        """Refuse flows of `agent` to this (packed) address for `timeout` from now on.

        If the agent has MAX_DESTINATIONS already, a new one is not added: `refused` then refuses every destination.
        """
        known = self._current(agent, ts)
        if remote in known or len(known) < MAX_DESTINATIONS:
            known[remote] = ts + self._timeout
            known.move_to_end(remote)

    def refused(self, agent: str, remote: bytes, ts: float) -> bool:
        """Return True if the address is refused to the agent, and remember it longer, since it was tried.

        An agent with MAX_DESTINATIONS is refused every destination. If the oldest were dropped instead, an agent could
        free a refused address by beacons to many others.
        """
        if agent not in self._agents:
            return False
        known = self._current(agent, ts)
        if remote in known:
            self.remember(agent, remote, ts)
            return True
        return len(known) >= MAX_DESTINATIONS

    def _current(self, agent: str, ts: float) -> OrderedDict[bytes, float]:
        known = self._agents.setdefault(agent, OrderedDict())
        while known and next(iter(known.values())) <= ts:
            known.popitem(last=False)
        return known

    def forget(self, agent: str) -> None:
        """Remove the destinations of an agent that is gone."""
        self._agents.pop(agent, None)
